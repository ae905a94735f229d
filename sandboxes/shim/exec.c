/* SPDX-License-Identifier: Apache-2.0 */
/* Finds the command in PATH and becomes it, with the shell's 127 and 126. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "child.h"

#define EXIT_NOT_EXECUTABLE 126
#define EXIT_NOT_FOUND 127
#define MAX_PATH_BYTES 4096

extern char **environ;

/* Returns errno. A file without a known format is a script for /bin/sh, as in execvp. */
static int try_exec(const char *path, char **command)
{
	int error, count = 0;

	execve(path, command, environ);
	error = errno;
	if (error != ENOEXEC)
		return error;
	while (command[count])
		count++;
	{
		char *script[count + 2];

		script[0] = (char *)"/bin/sh";
		script[1] = (char *)path;
		for (int i = 1; i <= count; i++)
			script[i + 1] = command[i];
		execve(script[0], script, environ);
	}
	return errno;
}

/* The errno that tells most: a file that may not be run beats one that is not there. */
static int search_exec(const char *program, char **command)
{
	const char *path = getenv("PATH");
	int error = ENOENT;

	if (strchr(program, '/'))
		return try_exec(program, command);
	if (!*program)
		return ENOENT;
	if (!path)
		path = "/bin:/usr/bin";
	for (;;) {
		char file[MAX_PATH_BYTES];
		struct text text = TEXT_IN(file);
		const char *end = strchr(path, ':');
		size_t size = end ? (size_t)(end - path) : strlen(path);

		text.capacity--;
		text_add_bytes(&text, path, size);
		text_add(&text, size ? "/" : "./");
		text_add(&text, program);
		if (!text.full) {
			int tried = try_exec(text_string(&text), command);

			if (tried != ENOENT && tried != ENOTDIR && tried != EACCES)
				return tried;
			if (tried == EACCES)
				error = EACCES;
		}
		if (!end)
			return error;
		path = end + 1;
	}
}

int exec_command(char **command)
{
	int error = search_exec(command[0], command);
	bool missing = error == ENOENT || error == ENOTDIR;

	if (missing && !strchr(command[0], '/'))
		say(command[0], ": command not found", NULL);
	else
		say(command[0], ": ", error_text(error), NULL);
	return missing ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE;
}

int exec_shell(char **command, bool login)
{
	char name[MAX_PATH_BYTES];
	struct text text = TEXT_IN(name);
	const char *slash = strrchr(command[0], '/');
	char *program = command[0];
	int error;

	if (!login)
		return exec_command(command);
	text_add(&text, "-");
	text_add(&text, slash ? slash + 1 : program);
	command[0] = (char *)text_string(&text);
	error = search_exec(program, command);
	say(program, ": ", error_text(error), NULL);
	return EXIT_NOT_FOUND;
}
