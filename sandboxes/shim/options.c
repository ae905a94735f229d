/* SPDX-License-Identifier: Apache-2.0 */
#include "options.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "json.h"
#include "shell.h"
#include "values.h"

#define DEFAULT_RECONNECT_MS 30000
/* The daemon takes 4096 characters; a character has at least one byte. */
#define MAX_COMMAND_BYTES 4096
#define MAX_VALUE_BYTES 1024
#define MAX_SHOWN_BYTES 64
#define LEAST_MEMORY_BYTES (1 << 20)

static const struct {
	const char *name;
	const char *field;
	enum kind kind;
} known[OPTION_COUNT] = {
	[OPTION_MEMORY] = { "--memory", "memory", SIZE },
	[OPTION_MEMORY_MAX] = { "--memory-max", "memory_max", SIZE },
	[OPTION_SWAP_MAX] = { "--swap-max", "swap_max", SIZE },
	[OPTION_CPU] = { "--cpu", "cpu", CORES },
	[OPTION_CPU_MAX] = { "--cpu-max", "cpu_max", CORES },
	[OPTION_PIDS_MAX] = { "--pids-max", "pids_max", COUNT },
	[OPTION_IO_WEIGHT] = { "--io-weight", "io_weight", WEIGHT },
	[OPTION_LATENCY] = { "--latency", "latency", LATENCY },
	[OPTION_DURATION] = { "--duration", "duration_s", DURATION },
	[OPTION_TIMEOUT] = { "--timeout", "timeout_s", DURATION },
	[OPTION_ON_EXCEED] = { "--on-exceed", "on_exceed", ON_EXCEED },
	[OPTION_MAX_WAIT] = { "--max-wait", "max_wait_s", DURATION },
	[OPTION_BACKGROUND] = { "--background", "background", BACKGROUND },
	[OPTION_LABEL] = { "--label", "label", ANY_TEXT },
	[OPTION_RETRY_OF] = { "--retry-of", "retry_of", ANY_TEXT },
	[OPTION_SESSION] = { "--session", NULL, ANY_TEXT },
	[OPTION_JSON_OUTCOME] = { "--json-outcome", NULL, ANY_TEXT },
	[OPTION_HOLD_FD] = { "--hold-fd", NULL, ANY_TEXT },
};

static const char usage[] =
	"usage: agentcgroup-run [OPTION...] -- COMMAND [ARGUMENT...]\n"
	"Runs COMMAND as a tool call with its own limits and exits as it does.\n"
	"\n"
	"  --session NAME         the session that pays (default: the caller's own)\n"
	"  --memory SIZE          expected peak, such as 512M or 2G\n"
	"  --memory-max SIZE      hard cap\n"
	"  --swap-max SIZE        swap at most\n"
	"  --cpu CORES            cores expected\n"
	"  --cpu-max CORES        cores at most\n"
	"  --pids-max COUNT       processes and threads at most\n"
	"  --io-weight WEIGHT     1 to 10000\n"
	"  --latency CLASS        interactive, standard or batch\n"
	"  --duration SECONDS     expected\n"
	"  --timeout SECONDS      ends the call when it is over\n"
	"  --on-exceed ACTION     throttle, wait or kill\n"
	"  --max-wait SECONDS     for admission and for more memory\n"
	"  --background ACTION    what outlives the command: kill or keep\n"
	"  --label TEXT           for logs and reports\n"
	"  --retry-of CALL        the call that this one tries again\n"
	"  --json-outcome FILE    writes how the call ended\n"
	"  --require              exits 69 without a daemon instead of running unmanaged\n"
	"  --hold-fd FD           waits for one byte on FD, then runs COMMAND (no tool call)\n"
	"\n"
	"With a shell's options (-c TEXT, -l …), or called by a name that ends in sh, it is a shell\n"
	"for SHELL=: bash (or AGENTCGROUP_SHELL) with these arguments, as a tool call.\n"
	"\n"
	"Exit status: the command's own; 124 timed out, 137 killed, 143 stopped,\n"
	"75 refused, 77 not permitted, 78 not possible here, 2 usage, 69 no daemon.\n";

static int wrong_usage(const char *argument, const char *problem)
{
	say(argument, ": ", problem, " (see agentcgroup-run --help)", NULL);
	return EXIT_USAGE;
}

/* Index of the option that the argument begins with, or OPTION_COUNT. */
static int lookup(const char *argument, const char **attached)
{
	const char *equals = strchr(argument, '=');
	size_t size = equals ? (size_t)(equals - argument) : strlen(argument);
	int i;

	*attached = equals ? equals + 1 : NULL;
	for (i = 0; i < OPTION_COUNT; i++)
		if (strlen(known[i].name) == size && !memcmp(known[i].name, argument, size))
			break;
	return i;
}

static int wrong_value(enum option option, const char *value, const char *remedy)
{
	static char line[512];
	struct text text = TEXT_IN(line);
	size_t size = strlen(value), shown = size < MAX_SHOWN_BYTES ? size : MAX_SHOWN_BYTES;

	while (shown < size && (value[shown] & 0xc0) == 0x80)
		shown--; /* between two characters */
	text_add(&text, "intent.");
	text_add(&text, known[option].field);
	text_add(&text, ": cannot use '");
	text_add_bytes(&text, value, shown);
	text_add(&text, shown < size ? "…': " : "': ");
	text_add(&text, remedy);
	say_foreign(line, text.length);
	return EXIT_USAGE;
}

/* Sizes that are fine by themselves and make no sense together; -1 to go on. */
static int check_sizes(const struct options *options)
{
	static char number[24];
	struct text text = TEXT_IN(number);
	uint64_t bytes[2] = { 0, 0 };

	for (enum option i = OPTION_MEMORY; i <= OPTION_MEMORY_MAX; i++) {
		if (!options->value[i] || !parse_size(options->value[i], &bytes[i]))
			continue;
		if (bytes[i] < LEAST_MEMORY_BYTES) {
			text_add_number(&text, bytes[i]);
			return wrong_value(i, text_string(&text), "a process needs at least 1M");
		}
	}
	if (!bytes[OPTION_MEMORY_MAX] || bytes[OPTION_MEMORY_MAX] >= bytes[OPTION_MEMORY])
		return -1;
	text_add_number(&text, bytes[OPTION_MEMORY_MAX]);
	return wrong_value(OPTION_MEMORY_MAX, text_string(&text), "must be at least memory");
}

static int show_usage(void)
{
	size_t size = sizeof(usage) - 1;

	return write(STDOUT_FILENO, usage, size) == (ssize_t)size ? 0 : 1;
}

static int read_environment(struct options *options)
{
	const char *reconnect = getenv("AGENTCGROUP_RECONNECT_S");

	options->reconnect_ms = DEFAULT_RECONNECT_MS;
	if (!reconnect || !*reconnect || parse_seconds(reconnect, &options->reconnect_ms))
		return -1;
	say("AGENTCGROUP_RECONNECT_S: cannot use '", reconnect,
	    "': write seconds as a number, such as 30 or 0.5", NULL);
	return EXIT_BAD_CONFIG;
}

static int parse_shell(struct options *options, char **argv, int first)
{
	int status = shell_options(options, argv[0], argv + first);

	return status < 0 && !options->interactive ? read_environment(options) : status;
}

/* `memory_max`, `memory-max` and `--memory-max` are the same field; so are timeout and timeout_s. */
static bool is_field(const char *field, const char *name)
{
	while (*name == '-')
		name++;
	for (; *name; name++, field++)
		if (*field != (*name == '-' ? '_' : *name))
			return false;
	return !*field || !strcmp(field, "_s");
}

const char *options_set(struct options *options, char *name, char *equals)
{
	const char *remedy = "there is no such field; see agentcgroup-run --help";

	*equals = 0;
	for (int i = 0; i < OPTION_INTENTS; i++) {
		if (!is_field(known[i].field, name))
			continue;
		remedy = value_remedy(known[i].kind, equals + 1);
		if (!remedy)
			options->value[i] = equals + 1;
		break;
	}
	if (remedy)
		*equals = '=';
	return remedy;
}

int options_parse(struct options *options, int argc, char **argv)
{
	int i;

	if (shell_is_name(argv[0]))
		return parse_shell(options, argv, 1);
	for (i = 1; i < argc && (argv[i][0] == '-' || argv[i][0] == '+'); i++) {
		const char *attached, *remedy;
		int option;

		if (!strcmp(argv[i], "--")) {
			i++;
			break;
		}
		if (shell_is_option(argv[i]))
			return parse_shell(options, argv, i);
		if (!strcmp(argv[i], "--help"))
			return show_usage();
		if (!strcmp(argv[i], "--require")) {
			options->require = true;
			continue;
		}
		option = lookup(argv[i], &attached);
		if (option == OPTION_COUNT)
			return wrong_usage(argv[i], "no such option");
		if (!attached && ++i == argc)
			return wrong_usage(argv[i - 1], "a value is missing");
		if (!attached)
			attached = argv[i];
		if (strlen(attached) > MAX_VALUE_BYTES)
			return wrong_usage(known[option].name, "a value may have 1024 bytes");
		remedy = value_remedy(known[option].kind, attached);
		if (remedy)
			return wrong_value(option, attached, remedy);
		options->value[option] = attached;
	}
	if (i >= argc)
		return wrong_usage("COMMAND", "say what to run, after --");
	options->command = argv + i;
	i = check_sizes(options);
	return i < 0 ? read_environment(options) : i;
}

static void add_command(char **command, struct text *out)
{
	static char joined[MAX_COMMAND_BYTES];
	struct text text = TEXT_IN(joined);

	for (int i = 0; command[i]; i++) {
		size_t size = strlen(command[i]), room;

		if (i > 0)
			text_add(&text, " ");
		room = text.capacity - text.length;
		text_add_bytes(&text, command[i], size < room ? size : room);
	}
	json_add_string(out, joined, text.length);
}

void options_add_intent(const struct options *options, struct text *out)
{
	text_add(out, "{\"command\":");
	add_command(options->command, out);
	for (int i = 0; i < OPTION_INTENTS; i++) {
		const char *value = options->value[i];

		if (!value)
			continue;
		text_add(out, ",\"");
		text_add(out, known[i].field);
		text_add(out, "\":");
		json_add_string(out, value, strlen(value));
	}
	text_add(out, "}");
}
