/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agentcgroup-replay: one replayed process; holds, at every moment, the memory its part of
 * a trace held.
 *
 *   agentcgroup-replay whole|exact BASE_BYTES RESULT LEVELS    each level at its own time
 *   agentcgroup-replay whole|exact BASE_BYTES RESULT           levels as they come on stdin
 *
 * The first line on stdin is "START_NS", on CLOCK_MONOTONIC; nothing is held before. LEVELS has
 * lines "NS BYTES", NS counted from START_NS and the time that the base memory took; stdin then
 * has lines "BYTES", and each is answered by an empty line once it is reached, after one for the
 * base memory. RESULT is there already; it gets four numbers of 64 bits (struct result) after
 * each level, and behind them the ns that each growth took, so that who is killed leaves what
 * it came to. `end_ns` is 0 until the end.
 *
 * Grows in chunks of at most 64 MiB, each a private mapping of which every page is written
 * to; a growth to a level is timed as one. `exact` shrinks to the level; `whole`, as AgentCgroup's
 * own replay, by giving up whole chunks, last first, until it holds no more than the level, so
 * it may end up below it. Base memory is extra and never counted. All else it needs is static:
 * some 100 KiB.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "text.h"

#define EXIT_BROKEN 1
#define EXIT_USAGE 2
#define CHUNK_BYTES (64UL << 20)
#define PAGE_BYTES 4096UL
#define NS_PER_S 1000000000UL

/* At the beginning of its own mapping. */
struct chunk {
	struct chunk *before;
	uint64_t size_bytes;
};

struct memory {
	struct chunk *last;
	uint64_t held_bytes;
};

struct result {
	uint64_t levels_done;
	uint64_t held_bytes;
	uint64_t peak_bytes;
	uint64_t end_ns;
};

struct input {
	int fd;
	size_t at, end;
	char data[4096];
};

static struct result result;
static int result_fd;
static uint64_t growths;
static bool exact;

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static void sleep_until(uint64_t at_ns)
{
	struct timespec at = { (time_t)(at_ns / NS_PER_S), (long)(at_ns % NS_PER_S) };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
		;
}

static int broken(const char *what, const char *problem)
{
	say(what, ": ", problem, NULL);
	return EXIT_BROKEN;
}

static bool grow(struct memory *memory, uint64_t size_bytes)
{
	char *map = mmap(NULL, size_bytes < sizeof(struct chunk) ? sizeof(struct chunk) : size_bytes,
			 PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct chunk *chunk = (struct chunk *)map;

	if (map == MAP_FAILED)
		return false;
	for (uint64_t at = 0; at < size_bytes; at += PAGE_BYTES)
		*(volatile char *)(map + at) = 1;
	*chunk = (struct chunk){ memory->last, size_bytes };
	memory->last = chunk;
	memory->held_bytes += size_bytes;
	return true;
}

/* Gives up the last chunk, or of it what is too much. */
static void shrink(struct memory *memory, uint64_t level_bytes)
{
	struct chunk *chunk = memory->last;
	uint64_t excess = memory->held_bytes - level_bytes, kept, pages;

	if (!exact || excess >= chunk->size_bytes) {
		memory->last = chunk->before;
		memory->held_bytes -= chunk->size_bytes;
		munmap(chunk, chunk->size_bytes);
		return;
	}
	kept = chunk->size_bytes - excess;
	pages = (kept + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
	if (pages < chunk->size_bytes)
		munmap((char *)chunk + pages, chunk->size_bytes - pages);
	chunk->size_bytes = kept;
	memory->held_bytes = level_bytes;
}

static bool reach(struct memory *memory, uint64_t level_bytes)
{
	while (memory->held_bytes < level_bytes) {
		uint64_t left = level_bytes - memory->held_bytes;

		if (!grow(memory, left < CHUNK_BYTES ? left : CHUNK_BYTES))
			return false;
	}
	while (memory->held_bytes > level_bytes)
		shrink(memory, level_bytes);
	return true;
}

static bool write_result(const void *data, size_t size, uint64_t at)
{
	return pwrite(result_fd, data, size, (off_t)at) == (ssize_t)size;
}

/* Goes to the level and notes it; false with a line on stderr if that can't be done. */
static bool play(struct memory *memory, uint64_t level_bytes)
{
	bool grows = level_bytes > memory->held_bytes;
	uint64_t begin_ns = now_ns(), took_ns;

	if (!reach(memory, level_bytes)) {
		broken("cannot grow", error_text(errno));
		return false;
	}
	took_ns = now_ns() - begin_ns;
	if (grows && !write_result(&took_ns, sizeof(took_ns),
				   sizeof(result) + growths++ * sizeof(took_ns)))
		goto unwritten;
	result.levels_done++;
	result.held_bytes = memory->held_bytes;
	if (result.peak_bytes < memory->held_bytes)
		result.peak_bytes = memory->held_bytes;
	if (write_result(&result, sizeof(result), 0))
		return true;
unwritten:
	broken("cannot write the result", error_text(errno));
	return false;
}

/* The next byte, or -1 at the end. */
static int next_byte(struct input *input)
{
	while (input->at == input->end) {
		ssize_t n = read(input->fd, input->data, sizeof(input->data));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		input->at = 0;
		input->end = (size_t)n;
	}
	return (unsigned char)input->data[input->at++];
}

/* A line of `count` numbers; 0 at the end of the input, -1 if it is anything else. */
static int read_line(struct input *input, uint64_t *numbers, int count)
{
	char line[64];
	size_t size = 0, at = 0;
	int byte;

	while ((byte = next_byte(input)) != '\n') {
		if (byte < 0 && size == 0)
			return 0;
		if (byte < 0 || size == sizeof(line))
			return -1;
		line[size++] = (char)byte;
	}
	for (int i = 0; i < count; i++) {
		if (at < size && i > 0 && line[at++] != ' ')
			return -1;
		if (!parse_number(line + at, size - at, &numbers[i]))
			return -1;
		while (at < size && line[at] >= '0' && line[at] <= '9')
			at++;
	}
	return at == size ? 1 : -1;
}

static bool acknowledge(void)
{
	return write(STDOUT_FILENO, "\n", 1) == 1;
}

static int play_timed(struct memory *memory, struct input *input, uint64_t begin_ns)
{
	uint64_t line[2];
	int got;

	while ((got = read_line(input, line, 2)) > 0) {
		sleep_until(begin_ns + line[0]);
		if (!play(memory, line[1]))
			return EXIT_BROKEN;
	}
	return got == 0 ? 0 : broken("levels", "a line is not NS BYTES");
}

static int play_followed(struct memory *memory, struct input *input)
{
	uint64_t level_bytes;
	int got;

	if (!acknowledge())
		return EXIT_BROKEN;
	while ((got = read_line(input, &level_bytes, 1)) > 0)
		if (!play(memory, level_bytes) || !acknowledge())
			return EXIT_BROKEN;
	return got == 0 ? 0 : broken("stdin", "a line is not BYTES");
}

static bool parse_arguments(int argc, char **argv, uint64_t *base_bytes)
{
	if (argc < 4 || argc > 5)
		return false;
	exact = !strcmp(argv[1], "exact");
	return (exact || !strcmp(argv[1], "whole")) &&
	       parse_whole_number(argv[2], base_bytes);
}

int main(int argc, char **argv)
{
	static struct input told, levels;
	struct memory base = { 0 }, memory = { 0 };
	uint64_t start_ns, base_bytes, base_begin_ns;
	int status;

	say_prefix = "agentcgroup-replay: ";
	if (!parse_arguments(argc, argv, &base_bytes)) {
		say("usage: agentcgroup-replay whole|exact BASE_BYTES RESULT [LEVELS]", NULL);
		return EXIT_USAGE;
	}
	if ((result_fd = open(argv[3], O_WRONLY | O_CLOEXEC)) < 0)
		return broken(argv[3], error_text(errno));
	if (argc == 5 && (levels.fd = open(argv[4], O_RDONLY | O_CLOEXEC)) < 0)
		return broken(argv[4], error_text(errno));
	if (read_line(&told, &start_ns, 1) <= 0)
		return broken("stdin", "the first line is not START_NS");
	sleep_until(start_ns);
	base_begin_ns = now_ns();
	if (!reach(&base, base_bytes))
		return broken("cannot hold the base memory", error_text(errno));
	start_ns += now_ns() - base_begin_ns;
	status = argc == 5 ? play_timed(&memory, &levels, start_ns) : play_followed(&memory, &told);
	if (status)
		return status;
	result.end_ns = now_ns();
	return write_result(&result, sizeof(result), 0) ? 0 :
							  broken(argv[3], error_text(errno));
}
