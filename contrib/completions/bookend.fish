# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_bookend_global_optspecs
    string join \n ledger= log= h/help V/version
end

function __fish_bookend_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_bookend_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_bookend_using_subcommand
    set -l cmd (__fish_bookend_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c bookend -n "__fish_bookend_needs_command" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_needs_command" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_needs_command" -s h -l help -d 'Print help'
complete -c bookend -n "__fish_bookend_needs_command" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_needs_command" -f -a "run" -d 'Run an agent, with one row at each end of it'
complete -c bookend -n "__fish_bookend_needs_command" -f -a "list" -d 'Show tasks, what runs first, then the newest'
complete -c bookend -n "__fish_bookend_needs_command" -f -a "ls" -d 'Show tasks, what runs first, then the newest'
complete -c bookend -n "__fish_bookend_needs_command" -f -a "show" -d 'Show all that is known of one task, and where to look further'
complete -c bookend -n "__fish_bookend_needs_command" -f -a "audit" -d 'Say what is not as it should be, and what mends it; changes nothing'
complete -c bookend -n "__fish_bookend_needs_command" -f -a "artifact" -d 'Say what a task made'
complete -c bookend -n "__fish_bookend_needs_command" -f -a "cancel" -d 'End running tasks as cancelled, and wait for their ends'
complete -c bookend -n "__fish_bookend_needs_command" -f -a "prune" -d 'Remove tasks whose time to be kept is over'
complete -c bookend -n "__fish_bookend_needs_command" -f -a "stats" -d 'Add up runs: how many, how they ended, what they cost'
complete -c bookend -n "__fish_bookend_needs_command" -f -a "timeline" -d 'Show what ran when'
complete -c bookend -n "__fish_bookend_needs_command" -f -a "doctor" -d 'Say how bookend is set up here, and what is wrong with it'
complete -c bookend -n "__fish_bookend_needs_command" -f -a "completions" -d 'Print the completion script for a shell'
complete -c bookend -n "__fish_bookend_needs_command" -f -a "man" -d 'Print a man page'
complete -c bookend -n "__fish_bookend_needs_command" -f -a "recover" -d 'Settle what died: find it, end what it left, mark it, and tell'
complete -c bookend -n "__fish_bookend_needs_command" -f -a "deliver" -d 'Run --on-finish commands that were cut off or failed'
complete -c bookend -n "__fish_bookend_needs_command" -f -a "redispatch" -d 'Run an ended task once more: its command line, key and options, where it was started'
complete -c bookend -n "__fish_bookend_needs_command" -f -a "session" -d 'The conversations that keys go on with'
complete -c bookend -n "__fish_bookend_needs_command" -f -a "adopt" -d 'Make the database of another program the ledger'
complete -c bookend -n "__fish_bookend_needs_command" -f -a "backup" -d 'Copy the ledger into a new file'
complete -c bookend -n "__fish_bookend_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c bookend -n "__fish_bookend_using_subcommand run" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand run" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand run" -l id -d 'The task\'s id, up to 200 bytes [default: a new UUIDv7]' -r
complete -c bookend -n "__fish_bookend_using_subcommand run" -l key -d 'What must not run twice at once and whose conversation continues [default: from --repo and --issue]' -r
complete -c bookend -n "__fish_bookend_using_subcommand run" -l repo -d 'The repository the task is about, e.g. charles/claude-hooks' -r
complete -c bookend -n "__fish_bookend_using_subcommand run" -l issue -d 'The number of the issue the task is about' -r
complete -c bookend -n "__fish_bookend_using_subcommand run" -l user -d 'On whose behalf the task runs' -r
complete -c bookend -n "__fish_bookend_using_subcommand run" -l agent -d 'The persona, e.g. dev [default: the program\'s base name]' -r
complete -c bookend -n "__fish_bookend_using_subcommand run" -l agent-type -d 'The adapter: claude, cursor, command [default: by the names on the command line]' -r
complete -c bookend -n "__fish_bookend_using_subcommand run" -l model -d 'The model, for the row, where neither argv nor output name it' -r
complete -c bookend -n "__fish_bookend_using_subcommand run" -l provider -d 'Who serves the model [default: by the adapter]' -r
complete -c bookend -n "__fish_bookend_using_subcommand run" -l cwd -d 'Where the agent runs; it may be made by --prepare' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand run" -l prepare -d 'A shell command to run first, e.g. one that makes the worktree; if it fails the task ends as failure' -r
complete -c bookend -n "__fish_bookend_using_subcommand run" -l forge -d 'The forge, first part of a key that is made from --repo and --issue' -r
complete -c bookend -n "__fish_bookend_using_subcommand run" -l require-skill -d 'Do not execute the agent unless it has this skill' -r
complete -c bookend -n "__fish_bookend_using_subcommand run" -l timeout -d 'End the agent this long after it was executed (30s, 10m, 2h; a bare number is seconds; 0: never)' -r
complete -c bookend -n "__fish_bookend_using_subcommand run" -l idle-timeout -d 'End the agent after this long without output; only where its output is captured as it comes' -r
complete -c bookend -n "__fish_bookend_using_subcommand run" -l grace -d 'How long each rung of the stopping ladder is given: the signal that came, SIGTERM, SIGKILL' -r
complete -c bookend -n "__fish_bookend_using_subcommand run" -l on-term -d 'What SIGTERM and SIGHUP mean to the task' -r -f -a "interrupted\t''
cancelled\t''"
complete -c bookend -n "__fish_bookend_using_subcommand run" -l keep-session -d 'Keep the key\'s session after these failures: a usage limit, an API error' -r -f -a "limit\t''
api-error\t''"
complete -c bookend -n "__fish_bookend_using_subcommand run" -l leftovers -d 'What to do with processes that the agent leaves behind; auto: end them unless it succeeded' -r -f -a "auto\t''
end\t''
leave\t''"
complete -c bookend -n "__fish_bookend_using_subcommand run" -l backlog -d 'How much output may wait for a slow reader before the agent has to wait (bytes, or 64MiB, 2GiB)' -r
complete -c bookend -n "__fish_bookend_using_subcommand run" -l on-finish -d 'A shell command to run at the end, with the row as JSON on its stdin' -r
complete -c bookend -n "__fish_bookend_using_subcommand run" -l hook-timeout -d 'End the --on-finish command after this long (0: never) [default: 60s]' -r
complete -c bookend -n "__fish_bookend_using_subcommand run" -l retention -d 'How long after its end the row is kept' -r
complete -c bookend -n "__fish_bookend_using_subcommand run" -l wait -d 'Wait for the task that holds the key, instead of leaving with 75'
complete -c bookend -n "__fish_bookend_using_subcommand run" -l replace -d 'Cancel the task that holds the key, then run'
complete -c bookend -n "__fish_bookend_using_subcommand run" -l fresh -d 'Start a fresh conversation, whatever the key\'s session is'
complete -c bookend -n "__fish_bookend_using_subcommand run" -l allow-unsafe-resume -d 'Resume a session although the ledger knows it to be unsafe'
complete -c bookend -n "__fish_bookend_using_subcommand run" -l strict -d 'Exit with 1 instead of 0 unless the task ends as success'
complete -c bookend -n "__fish_bookend_using_subcommand run" -s q -l quiet -d 'Say nothing but errors'
complete -c bookend -n "__fish_bookend_using_subcommand run" -s v -l verbose -d 'Say what bookend does; twice: in detail'
complete -c bookend -n "__fish_bookend_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c bookend -n "__fish_bookend_using_subcommand run" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand list" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand list" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand list" -l status -d 'Only tasks of this status' -r
complete -c bookend -n "__fish_bookend_using_subcommand list" -l key -d 'Only tasks under this key' -r
complete -c bookend -n "__fish_bookend_using_subcommand list" -l repo -d 'Only tasks about this repository' -r
complete -c bookend -n "__fish_bookend_using_subcommand list" -l agent -d 'Only tasks of this persona, e.g. dev' -r
complete -c bookend -n "__fish_bookend_using_subcommand list" -l since -d 'Only tasks started since: 2h, 3d, 2026-11-21, or a whole RFC 3339 time (a date is UTC)' -r
complete -c bookend -n "__fish_bookend_using_subcommand list" -l limit -d 'At most this many' -r
complete -c bookend -n "__fish_bookend_using_subcommand list" -l json -d 'As one JSON object: {"ledger", "tasks": [...]}'
complete -c bookend -n "__fish_bookend_using_subcommand list" -l jsonl -d 'As JSON, one task a line'
complete -c bookend -n "__fish_bookend_using_subcommand list" -l watch -d 'Draw it again whenever something changes, until Ctrl-C'
complete -c bookend -n "__fish_bookend_using_subcommand list" -s h -l help -d 'Print help'
complete -c bookend -n "__fish_bookend_using_subcommand list" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand ls" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand ls" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand ls" -l status -d 'Only tasks of this status' -r
complete -c bookend -n "__fish_bookend_using_subcommand ls" -l key -d 'Only tasks under this key' -r
complete -c bookend -n "__fish_bookend_using_subcommand ls" -l repo -d 'Only tasks about this repository' -r
complete -c bookend -n "__fish_bookend_using_subcommand ls" -l agent -d 'Only tasks of this persona, e.g. dev' -r
complete -c bookend -n "__fish_bookend_using_subcommand ls" -l since -d 'Only tasks started since: 2h, 3d, 2026-11-21, or a whole RFC 3339 time (a date is UTC)' -r
complete -c bookend -n "__fish_bookend_using_subcommand ls" -l limit -d 'At most this many' -r
complete -c bookend -n "__fish_bookend_using_subcommand ls" -l json -d 'As one JSON object: {"ledger", "tasks": [...]}'
complete -c bookend -n "__fish_bookend_using_subcommand ls" -l jsonl -d 'As JSON, one task a line'
complete -c bookend -n "__fish_bookend_using_subcommand ls" -l watch -d 'Draw it again whenever something changes, until Ctrl-C'
complete -c bookend -n "__fish_bookend_using_subcommand ls" -s h -l help -d 'Print help'
complete -c bookend -n "__fish_bookend_using_subcommand ls" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand show" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand show" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand show" -l json -d 'As one JSON object'
complete -c bookend -n "__fish_bookend_using_subcommand show" -s h -l help -d 'Print help'
complete -c bookend -n "__fish_bookend_using_subcommand show" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand audit" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand audit" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand audit" -l severity -d 'Show only findings this severe: warn, error' -r
complete -c bookend -n "__fish_bookend_using_subcommand audit" -l code -d 'Show only findings of this code' -r
complete -c bookend -n "__fish_bookend_using_subcommand audit" -l limit -d 'Show at most this many' -r
complete -c bookend -n "__fish_bookend_using_subcommand audit" -l fail-on -d 'Leave with 1 if anything this severe was found, shown or not: warn, error' -r
complete -c bookend -n "__fish_bookend_using_subcommand audit" -l stale-after -d 'How long a task whose output is read along may be silent' -r
complete -c bookend -n "__fish_bookend_using_subcommand audit" -l json -d 'As one JSON object: {"summary", "shown", "findings": [...]}'
complete -c bookend -n "__fish_bookend_using_subcommand audit" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c bookend -n "__fish_bookend_using_subcommand audit" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand artifact; and not __fish_seen_subcommand_from add help" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand artifact; and not __fish_seen_subcommand_from add help" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand artifact; and not __fish_seen_subcommand_from add help" -s h -l help -d 'Print help'
complete -c bookend -n "__fish_bookend_using_subcommand artifact; and not __fish_seen_subcommand_from add help" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand artifact; and not __fish_seen_subcommand_from add help" -f -a "add" -d 'Note a file, a directory or a URL with the task, from inside its run'
complete -c bookend -n "__fish_bookend_using_subcommand artifact; and not __fish_seen_subcommand_from add help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c bookend -n "__fish_bookend_using_subcommand artifact; and __fish_seen_subcommand_from add" -l task -d 'Another task than the one around this command' -r
complete -c bookend -n "__fish_bookend_using_subcommand artifact; and __fish_seen_subcommand_from add" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand artifact; and __fish_seen_subcommand_from add" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand artifact; and __fish_seen_subcommand_from add" -s h -l help -d 'Print help'
complete -c bookend -n "__fish_bookend_using_subcommand artifact; and __fish_seen_subcommand_from add" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand artifact; and __fish_seen_subcommand_from help" -f -a "add" -d 'Note a file, a directory or a URL with the task, from inside its run'
complete -c bookend -n "__fish_bookend_using_subcommand artifact; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c bookend -n "__fish_bookend_using_subcommand cancel" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand cancel" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand cancel" -l key -d 'The task that runs under this key' -r
complete -c bookend -n "__fish_bookend_using_subcommand cancel" -l wait -d 'Wait this long at most (0: not at all) [default: until they have ended]' -r
complete -c bookend -n "__fish_bookend_using_subcommand cancel" -l all -d 'Every task that runs, but for the one that this command runs inside'
complete -c bookend -n "__fish_bookend_using_subcommand cancel" -s h -l help -d 'Print help'
complete -c bookend -n "__fish_bookend_using_subcommand cancel" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand prune" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand prune" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand prune" -l retention -d 'Remove all that ended so long ago [default: what each task was given, 365d]' -r
complete -c bookend -n "__fish_bookend_using_subcommand prune" -l dry-run -d 'Only say how many'
complete -c bookend -n "__fish_bookend_using_subcommand prune" -l vacuum -d 'Give the room back to the file system; others wait meanwhile'
complete -c bookend -n "__fish_bookend_using_subcommand prune" -l json -d 'As one JSON object'
complete -c bookend -n "__fish_bookend_using_subcommand prune" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c bookend -n "__fish_bookend_using_subcommand prune" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand stats" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand stats" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand stats" -l by -d 'What to group by: all, agent, repo, key, model, day' -r
complete -c bookend -n "__fish_bookend_using_subcommand stats" -l since -d 'Only tasks started since: 2h, 30d, 2026-11-21, or a whole RFC 3339 time (a date is UTC)' -r
complete -c bookend -n "__fish_bookend_using_subcommand stats" -l limit -d 'At most this many groups' -r
complete -c bookend -n "__fish_bookend_using_subcommand stats" -l json -d 'As one JSON object: {"by", "groups": [...]}'
complete -c bookend -n "__fish_bookend_using_subcommand stats" -s h -l help -d 'Print help'
complete -c bookend -n "__fish_bookend_using_subcommand stats" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand timeline" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand timeline" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand timeline" -l since -d 'What was in flight since: 2h, 3d, 2026-11-21, or a whole RFC 3339 time (a date is UTC)' -r
complete -c bookend -n "__fish_bookend_using_subcommand timeline" -l key -d 'Only tasks under this key' -r
complete -c bookend -n "__fish_bookend_using_subcommand timeline" -l repo -d 'Only tasks about this repository' -r
complete -c bookend -n "__fish_bookend_using_subcommand timeline" -l agent -d 'Only tasks of this persona, e.g. dev' -r
complete -c bookend -n "__fish_bookend_using_subcommand timeline" -l limit -d 'At most this many, the newest' -r
complete -c bookend -n "__fish_bookend_using_subcommand timeline" -l html -d 'Write a page that needs nothing else, instead' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand timeline" -s h -l help -d 'Print help'
complete -c bookend -n "__fish_bookend_using_subcommand timeline" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand doctor" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand doctor" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand doctor" -l json -d 'As one JSON object: {"healthy", "points": [...]}'
complete -c bookend -n "__fish_bookend_using_subcommand doctor" -s h -l help -d 'Print help'
complete -c bookend -n "__fish_bookend_using_subcommand doctor" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand completions" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand completions" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand completions" -s h -l help -d 'Print help'
complete -c bookend -n "__fish_bookend_using_subcommand completions" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand man" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand man" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand man" -l dir -d 'Write the pages of all commands there instead' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand man" -s h -l help -d 'Print help'
complete -c bookend -n "__fish_bookend_using_subcommand man" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand recover" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand recover" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand recover" -l ttl -d 'End a task that cannot be judged from here this long after its last sign of life' -r
complete -c bookend -n "__fish_bookend_using_subcommand recover" -l grace -d 'How long left-over processes are given between SIGTERM and SIGKILL' -r
complete -c bookend -n "__fish_bookend_using_subcommand recover" -l on-interrupted -d 'A shell command to run for each interrupted task, with its row as JSON on stdin; at most three times' -r
complete -c bookend -n "__fish_bookend_using_subcommand recover" -l hook-timeout -d 'End a hook after this long (0: never) [default: what the task was given, else 60s]' -r
complete -c bookend -n "__fish_bookend_using_subcommand recover" -l settle-only -d 'Mark lost tasks and end their processes; run no hooks and print no reports'
complete -c bookend -n "__fish_bookend_using_subcommand recover" -l dry-run -d 'Say what would be done, and do nothing'
complete -c bookend -n "__fish_bookend_using_subcommand recover" -l json -d 'As one JSON object'
complete -c bookend -n "__fish_bookend_using_subcommand recover" -s q -l quiet -d 'Say nothing on stderr but errors'
complete -c bookend -n "__fish_bookend_using_subcommand recover" -s v -l verbose -d 'Say on stderr what bookend does; twice: in detail'
complete -c bookend -n "__fish_bookend_using_subcommand recover" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c bookend -n "__fish_bookend_using_subcommand recover" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand deliver" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand deliver" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand deliver" -l hook-timeout -d 'End a command after this long (0: never) [default: what the task was given, else 60s]' -r
complete -c bookend -n "__fish_bookend_using_subcommand deliver" -l failed -d 'Run the commands that failed'
complete -c bookend -n "__fish_bookend_using_subcommand deliver" -l again -d 'Run the command again even if it succeeded'
complete -c bookend -n "__fish_bookend_using_subcommand deliver" -s q -l quiet -d 'Say nothing on stderr but errors'
complete -c bookend -n "__fish_bookend_using_subcommand deliver" -s v -l verbose -d 'Say on stderr what bookend does; twice: in detail'
complete -c bookend -n "__fish_bookend_using_subcommand deliver" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c bookend -n "__fish_bookend_using_subcommand deliver" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand redispatch" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand redispatch" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand redispatch" -l stdin -d 'The prompt that came on its stdin comes again, on this command\'s'
complete -c bookend -n "__fish_bookend_using_subcommand redispatch" -l wait -d 'Wait for the task that holds the key, instead of leaving with 75'
complete -c bookend -n "__fish_bookend_using_subcommand redispatch" -l replace -d 'Cancel the task that holds the key, then run'
complete -c bookend -n "__fish_bookend_using_subcommand redispatch" -s q -l quiet -d 'Say nothing but errors'
complete -c bookend -n "__fish_bookend_using_subcommand redispatch" -s v -l verbose -d 'Say what bookend does; twice: in detail'
complete -c bookend -n "__fish_bookend_using_subcommand redispatch" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c bookend -n "__fish_bookend_using_subcommand redispatch" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand session; and not __fish_seen_subcommand_from list show resume-id invalidate restore help" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand session; and not __fish_seen_subcommand_from list show resume-id invalidate restore help" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand session; and not __fish_seen_subcommand_from list show resume-id invalidate restore help" -s h -l help -d 'Print help'
complete -c bookend -n "__fish_bookend_using_subcommand session; and not __fish_seen_subcommand_from list show resume-id invalidate restore help" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand session; and not __fish_seen_subcommand_from list show resume-id invalidate restore help" -f -a "list" -d 'Show every key\'s session, and whether it may be resumed'
complete -c bookend -n "__fish_bookend_using_subcommand session; and not __fish_seen_subcommand_from list show resume-id invalidate restore help" -f -a "show" -d 'Show a key\'s session, and those that were taken away from it'
complete -c bookend -n "__fish_bookend_using_subcommand session; and not __fish_seen_subcommand_from list show resume-id invalidate restore help" -f -a "resume-id" -d 'Print the id that may be resumed now, or leave with 1 and say why not'
complete -c bookend -n "__fish_bookend_using_subcommand session; and not __fish_seen_subcommand_from list show resume-id invalidate restore help" -f -a "invalidate" -d 'Take a key\'s session out of use'
complete -c bookend -n "__fish_bookend_using_subcommand session; and not __fish_seen_subcommand_from list show resume-id invalidate restore help" -f -a "restore" -d 'Bring back the session that was withdrawn last from a key, although its last task did not end well'
complete -c bookend -n "__fish_bookend_using_subcommand session; and not __fish_seen_subcommand_from list show resume-id invalidate restore help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from list" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from list" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from list" -l json -d 'As one JSON object: {"ledger", "sessions": [...]}'
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from list" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from show" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from show" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from show" -l json -d 'As one JSON object: {"key", "session", "invalidations"}'
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from show" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from resume-id" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from resume-id" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from resume-id" -l json -d 'As one JSON object'
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from resume-id" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from resume-id" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from invalidate" -l reason -d 'Why, for the record' -r
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from invalidate" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from invalidate" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from invalidate" -l json -d 'As one JSON object'
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from invalidate" -s h -l help -d 'Print help'
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from invalidate" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from restore" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from restore" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from restore" -l json -d 'As one JSON object'
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from restore" -s h -l help -d 'Print help'
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from restore" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from help" -f -a "list" -d 'Show every key\'s session, and whether it may be resumed'
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from help" -f -a "show" -d 'Show a key\'s session, and those that were taken away from it'
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from help" -f -a "resume-id" -d 'Print the id that may be resumed now, or leave with 1 and say why not'
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from help" -f -a "invalidate" -d 'Take a key\'s session out of use'
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from help" -f -a "restore" -d 'Bring back the session that was withdrawn last from a key, although its last task did not end well'
complete -c bookend -n "__fish_bookend_using_subcommand session; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c bookend -n "__fish_bookend_using_subcommand adopt" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand adopt" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand adopt" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c bookend -n "__fish_bookend_using_subcommand adopt" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand backup" -l ledger -d 'The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db]' -r -F
complete -c bookend -n "__fish_bookend_using_subcommand backup" -l log -d 'Where bookend\'s own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or target=level pairs' -r -f -a "auto\t''
stderr\t''
journald\t''"
complete -c bookend -n "__fish_bookend_using_subcommand backup" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c bookend -n "__fish_bookend_using_subcommand backup" -s V -l version -d 'Print version'
complete -c bookend -n "__fish_bookend_using_subcommand help; and not __fish_seen_subcommand_from run list show audit artifact cancel prune stats timeline doctor completions man recover deliver redispatch session adopt backup help" -f -a "run" -d 'Run an agent, with one row at each end of it'
complete -c bookend -n "__fish_bookend_using_subcommand help; and not __fish_seen_subcommand_from run list show audit artifact cancel prune stats timeline doctor completions man recover deliver redispatch session adopt backup help" -f -a "list" -d 'Show tasks, what runs first, then the newest'
complete -c bookend -n "__fish_bookend_using_subcommand help; and not __fish_seen_subcommand_from run list show audit artifact cancel prune stats timeline doctor completions man recover deliver redispatch session adopt backup help" -f -a "show" -d 'Show all that is known of one task, and where to look further'
complete -c bookend -n "__fish_bookend_using_subcommand help; and not __fish_seen_subcommand_from run list show audit artifact cancel prune stats timeline doctor completions man recover deliver redispatch session adopt backup help" -f -a "audit" -d 'Say what is not as it should be, and what mends it; changes nothing'
complete -c bookend -n "__fish_bookend_using_subcommand help; and not __fish_seen_subcommand_from run list show audit artifact cancel prune stats timeline doctor completions man recover deliver redispatch session adopt backup help" -f -a "artifact" -d 'Say what a task made'
complete -c bookend -n "__fish_bookend_using_subcommand help; and not __fish_seen_subcommand_from run list show audit artifact cancel prune stats timeline doctor completions man recover deliver redispatch session adopt backup help" -f -a "cancel" -d 'End running tasks as cancelled, and wait for their ends'
complete -c bookend -n "__fish_bookend_using_subcommand help; and not __fish_seen_subcommand_from run list show audit artifact cancel prune stats timeline doctor completions man recover deliver redispatch session adopt backup help" -f -a "prune" -d 'Remove tasks whose time to be kept is over'
complete -c bookend -n "__fish_bookend_using_subcommand help; and not __fish_seen_subcommand_from run list show audit artifact cancel prune stats timeline doctor completions man recover deliver redispatch session adopt backup help" -f -a "stats" -d 'Add up runs: how many, how they ended, what they cost'
complete -c bookend -n "__fish_bookend_using_subcommand help; and not __fish_seen_subcommand_from run list show audit artifact cancel prune stats timeline doctor completions man recover deliver redispatch session adopt backup help" -f -a "timeline" -d 'Show what ran when'
complete -c bookend -n "__fish_bookend_using_subcommand help; and not __fish_seen_subcommand_from run list show audit artifact cancel prune stats timeline doctor completions man recover deliver redispatch session adopt backup help" -f -a "doctor" -d 'Say how bookend is set up here, and what is wrong with it'
complete -c bookend -n "__fish_bookend_using_subcommand help; and not __fish_seen_subcommand_from run list show audit artifact cancel prune stats timeline doctor completions man recover deliver redispatch session adopt backup help" -f -a "completions" -d 'Print the completion script for a shell'
complete -c bookend -n "__fish_bookend_using_subcommand help; and not __fish_seen_subcommand_from run list show audit artifact cancel prune stats timeline doctor completions man recover deliver redispatch session adopt backup help" -f -a "man" -d 'Print a man page'
complete -c bookend -n "__fish_bookend_using_subcommand help; and not __fish_seen_subcommand_from run list show audit artifact cancel prune stats timeline doctor completions man recover deliver redispatch session adopt backup help" -f -a "recover" -d 'Settle what died: find it, end what it left, mark it, and tell'
complete -c bookend -n "__fish_bookend_using_subcommand help; and not __fish_seen_subcommand_from run list show audit artifact cancel prune stats timeline doctor completions man recover deliver redispatch session adopt backup help" -f -a "deliver" -d 'Run --on-finish commands that were cut off or failed'
complete -c bookend -n "__fish_bookend_using_subcommand help; and not __fish_seen_subcommand_from run list show audit artifact cancel prune stats timeline doctor completions man recover deliver redispatch session adopt backup help" -f -a "redispatch" -d 'Run an ended task once more: its command line, key and options, where it was started'
complete -c bookend -n "__fish_bookend_using_subcommand help; and not __fish_seen_subcommand_from run list show audit artifact cancel prune stats timeline doctor completions man recover deliver redispatch session adopt backup help" -f -a "session" -d 'The conversations that keys go on with'
complete -c bookend -n "__fish_bookend_using_subcommand help; and not __fish_seen_subcommand_from run list show audit artifact cancel prune stats timeline doctor completions man recover deliver redispatch session adopt backup help" -f -a "adopt" -d 'Make the database of another program the ledger'
complete -c bookend -n "__fish_bookend_using_subcommand help; and not __fish_seen_subcommand_from run list show audit artifact cancel prune stats timeline doctor completions man recover deliver redispatch session adopt backup help" -f -a "backup" -d 'Copy the ledger into a new file'
complete -c bookend -n "__fish_bookend_using_subcommand help; and not __fish_seen_subcommand_from run list show audit artifact cancel prune stats timeline doctor completions man recover deliver redispatch session adopt backup help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c bookend -n "__fish_bookend_using_subcommand help; and __fish_seen_subcommand_from session" -f -a "list" -d 'Show every key\'s session, and whether it may be resumed'
complete -c bookend -n "__fish_bookend_using_subcommand help; and __fish_seen_subcommand_from session" -f -a "show" -d 'Show a key\'s session, and those that were taken away from it'
complete -c bookend -n "__fish_bookend_using_subcommand help; and __fish_seen_subcommand_from session" -f -a "resume-id" -d 'Print the id that may be resumed now, or leave with 1 and say why not'
complete -c bookend -n "__fish_bookend_using_subcommand help; and __fish_seen_subcommand_from session" -f -a "invalidate" -d 'Take a key\'s session out of use'
complete -c bookend -n "__fish_bookend_using_subcommand help; and __fish_seen_subcommand_from session" -f -a "restore" -d 'Bring back the session that was withdrawn last from a key, although its last task did not end well'
