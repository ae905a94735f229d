/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "shell.h"

#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEFAULT_SHELL "bash"
#define MAX_ARGUMENTS 4096
#define MAX_SAID_BYTES 1024
#define MAX_SHOWN_BYTES 64
#define COMMENT "# agentcgroup:"
#define TERMINAL_STATE 0x5401 /* TCGETS of ioctl_tty(2) */

/* bash(1), INVOCATION: long options, and whether an argument follows. */
static const struct {
	const char *name;
	bool argument;
} long_options[] = {
	{ "--login", false },	     { "--norc", false },      { "--noprofile", false },
	{ "--noediting", false },    { "--posix", false },     { "--restricted", false },
	{ "--verbose", false },	     { "--debugger", false },  { "--rcfile", true },
	{ "--init-file", true },
};

struct invocation {
	const char *text; /* of -c, else NULL */
	bool script;
	bool interactive;
};

static int long_option(const char *argument)
{
	for (size_t i = 0; i < sizeof(long_options) / sizeof(long_options[0]); i++)
		if (!strcmp(argument, long_options[i].name))
			return (int)i;
	return -1;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

bool shell_is_name(const char *program)
{
	const char *name = base_name(program);
	size_t size = strlen(name);

	return size > 2 && !strcmp(name + size - 2, "sh");
}

bool shell_is_option(const char *argument)
{
	if (argument[0] == '+')
		return argument[1];
	return argument[0] == '-' && (argument[1] == '-' ? long_option(argument) >= 0 : argument[1]);
}

static bool is_terminal(int fd)
{
	char state[256];

	return syscall(SYS_ioctl, (long)fd, (long)TERMINAL_STATE, (long)state) == 0;
}

/* What bash would make of its arguments, as far as it matters here. */
static struct invocation read_arguments(char **arguments)
{
	struct invocation found = { NULL, false, false };
	bool takes_text = false, from_stdin = false;
	int i;

	for (i = 0; arguments[i] && (arguments[i][0] == '-' || arguments[i][0] == '+'); i++) {
		const char *letter = arguments[i] + 1;
		int known = long_option(arguments[i]);

		if (!strcmp(arguments[i], "--") || !*letter) {
			i++;
			break;
		}
		if (known >= 0 && long_options[known].argument && arguments[i + 1])
			i++;
		for (; known < 0 && *letter; letter++) {
			takes_text |= *letter == 'c';
			from_stdin |= *letter == 's';
			found.interactive |= *letter == 'i';
			if ((*letter == 'o' || *letter == 'O') && !letter[1] && arguments[i + 1])
				i++; /* `-o pipefail` */
		}
	}
	if (takes_text)
		found.text = arguments[i];
	found.script = !takes_text && !from_stdin && arguments[i];
	if (!takes_text && !found.script)
		found.interactive |= is_terminal(STDIN_FILENO);
	return found;
}

/* One line about what a model said; false. */
static bool wrong(const char *place, const char *said, const char *remedy)
{
	char line[512];
	struct text text = TEXT_IN(line);
	size_t size = strlen(said), shown = size < MAX_SHOWN_BYTES ? size : MAX_SHOWN_BYTES;

	while (shown < size && (said[shown] & 0xc0) == 0x80)
		shown--; /* between two characters */
	text_add(&text, place);
	text_add(&text, ": cannot use '");
	text_add_bytes(&text, said, shown);
	text_add(&text, shown < size ? "…': " : "': ");
	text_add(&text, remedy);
	say_foreign(line, text.length);
	return false;
}

/* `memory=2G timeout=10m`, as in AGENTCGROUP_INTENT. False with a line on stderr. */
static bool read_pairs(struct options *options, const char *place, const char *said)
{
	static char copy[MAX_SAID_BYTES];
	size_t size = strlen(said), start = 0;

	if (size >= sizeof(copy))
		return wrong(place, said, "at most 1023 bytes");
	memcpy(copy, said, size + 1);
	for (size_t i = 0; i <= size; i++) {
		const char *remedy;
		char *equals;

		if (copy[i] && !strchr(" \t,;", copy[i]))
			continue;
		copy[i] = 0;
		equals = strchr(copy + start, '=');
		if (i > start && (!equals || !equals[1]))
			return wrong(place, copy + start, "write pairs such as memory=2G timeout=10m");
		remedy = i > start ? options_set(options, copy + start, equals) : NULL;
		if (remedy)
			return wrong(place, copy + start, remedy);
		start = i + 1;
	}
	return true;
}

/* AGENT_RESOURCE_HINT: memory:low|medium|high|<n>g; high is what is free, so nothing is said. */
static bool read_hint(struct options *options, const char *hint)
{
	static char pair[64];
	struct text text = TEXT_IN(pair);
	const char *said = strncmp(hint, "memory:", 7) ? "" : hint + 7;

	if (!strcmp(said, "high"))
		return true;
	text_add(&text, "memory=");
	text_add(&text, !strcmp(said, "low") ? "256M" : !strcmp(said, "medium") ? "1G" : said);
	if (*said >= '0' && *said <= '9')
		return read_pairs(options, "AGENT_RESOURCE_HINT", text_string(&text));
	if (!strcmp(said, "low") || !strcmp(said, "medium"))
		return read_pairs(options, "AGENT_RESOURCE_HINT", text_string(&text));
	return wrong("AGENT_RESOURCE_HINT", hint,
		     "write memory:low, memory:medium, memory:high or memory:<n>g");
}

/* The comment in the text wins over the environment, pairs over the coarser hint. */
static bool read_intent(struct options *options, const char *text)
{
	static char said[MAX_SAID_BYTES];
	const char *variable = getenv("AGENTCGROUP_INTENT"), *hint = getenv("AGENT_RESOURCE_HINT");

	for (const char *at = text; at && (at = strchr(at, '#')); at++) {
		const char *comment = at + sizeof(COMMENT) - 1, *end;

		if (strncmp(at, COMMENT, sizeof(COMMENT) - 1))
			continue;
		end = strchr(comment, '\n');
		if (!end)
			end = comment + strlen(comment);
		if ((size_t)(end - comment) >= sizeof(said))
			return wrong(COMMENT, comment, "at most 1023 bytes");
		memcpy(said, comment, (size_t)(end - comment));
		said[end - comment] = 0;
		return read_pairs(options, COMMENT, said);
	}
	if (variable && *variable)
		return read_pairs(options, "AGENTCGROUP_INTENT", variable);
	return !hint || !*hint || read_hint(options, hint);
}

int shell_options(struct options *options, const char *program, char **arguments)
{
	static char *command[MAX_ARGUMENTS];
	const char *shell = getenv("AGENTCGROUP_SHELL");
	const char *given[OPTION_COUNT];
	struct invocation found = read_arguments(arguments);
	int count = 1;

	if (!shell || !*shell)
		shell = DEFAULT_SHELL;
	if (!strncmp(base_name(shell), "agentcgroup", 11)) {
		say("AGENTCGROUP_SHELL: cannot use '", shell, "': name a shell, such as /bin/bash", NULL);
		return EXIT_BAD_CONFIG;
	}
	command[0] = (char *)shell;
	for (; arguments[count - 1]; count++) {
		if (count >= MAX_ARGUMENTS - 1) {
			say("more than 4095 arguments", NULL);
			return EXIT_USAGE;
		}
		command[count] = arguments[count - 1];
	}
	options->command = command;
	options->shell = true;
	options->interactive = !found.text && !found.script && found.interactive;
	options->login = program[0] == '-';
	memcpy(given, options->value, sizeof(given));
	if (!options->interactive && !read_intent(options, found.text))
		memset(options->value, 0, sizeof(options->value));
	for (int i = 0; i < OPTION_COUNT; i++)
		if (given[i])
			options->value[i] = given[i]; /* an option is said last */
	return -1;
}
