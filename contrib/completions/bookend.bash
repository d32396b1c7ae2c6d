# Completion of bookend for bash. What bookend prints: a word, a tab and its description per line, or a tab and
# the index of the agent's program, from which on the completion of that program takes over.
_bookend() {
    local cur=${COMP_WORDS[COMP_CWORD]} cword=$COMP_CWORD words=("${COMP_WORDS[@]}") lines line word broken
    # bash breaks words at : and =, which keys and options contain; bash-completion joins them again.
    if declare -F _get_comp_words_by_ref >/dev/null; then
        _get_comp_words_by_ref -n := cur words cword
    fi
    mapfile -t lines < <(command "${words[0]}" __complete "$cword" "${words[@]:0:cword}" "$cur" 2>/dev/null)
    COMPREPLY=()
    if [[ ${lines[0]-} == $'\t'* ]]; then
        _bookend_agent "${lines[0]#$'\t'}"
        return
    fi
    broken=
    if [[ $cur == *[:=]* && ${COMP_WORDS[COMP_CWORD]} != "$cur" ]]; then
        broken=${cur%"${cur##*[:=]}"}
    fi
    for line in "${lines[@]}"; do
        word=${line%%$'\t'*}
        word=${word#"$broken"}
        [[ -n $word ]] && COMPREPLY+=("$(printf %q "$word")")
    done
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[/=] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}

# $1: the index of the agent's program in the joined words of _bookend.
_bookend_agent() {
    local i=0 k joined
    for ((k = 0; k < $1; k++)); do
        joined=${COMP_WORDS[i]}
        while [[ $joined != "${words[k]}" && $i -lt $COMP_CWORD ]]; do
            ((i++))
            joined+=${COMP_WORDS[i]}
        done
        ((i++))
    done
    if declare -F _comp_command_offset >/dev/null; then
        _comp_command_offset "$i"
    elif declare -F _command_offset >/dev/null; then
        _command_offset "$i"
    elif [[ $cword -eq $1 && $cur != */* ]]; then
        mapfile -t COMPREPLY < <(compgen -c -- "$cur" | sort -u)
    else
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    fi
}

complete -o nosort -F _bookend bookend
