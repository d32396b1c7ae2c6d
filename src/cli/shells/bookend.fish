# Completion of bookend for fish. What bookend prints: a word, a tab and its description per line, or a tab and
# the index of the agent's program, from which on the completion of that program takes over.
function __bookend_complete
    set -l words (commandline --current-process --tokenize --cut-at-cursor)
    set -l current (commandline --current-token --cut-at-cursor)
    set -l lines (command $words[1] __complete (count $words) $words $current 2>/dev/null)
    if string match --quiet --regex '^\t' -- $lines[1]
        set -l first (math (string trim -- $lines[1]) + 1)
        set -l agent
        if test $first -le (count $words)
            set agent (string escape -- $words[$first..])
        end
        complete --do-complete (string join ' ' -- $agent $current)
        return
    end
    printf '%s\n' $lines
end

complete --command bookend --no-files --keep-order --arguments '(__bookend_complete)'
