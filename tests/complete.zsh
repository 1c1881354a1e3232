# What zsh makes of a line when Tab is pressed: zsh -f complete.zsh DIRECTORY_OF_COMPLETIONS LINE
zmodload zsh/zpty
zpty -b terminal "TERM=dumb zsh -f -i"
out=
listen() { # until this pattern is there
  local some
  for _ in {1..1200}; do
    while zpty -r -t terminal some; do out+=$some; done
    [[ $out == ${~1} ]] && return
    sleep 0.05
  done
  print -u2 -r -- "in vain: ${(V)out}"; exit 1
}
# Tab, and then a key that says what stands there.
zpty -w terminal "PROMPT=; stty -echo cols 200; fpath=($1 \$fpath); autoload -Uz compinit && compinit -u -D; show() { print -r -- \"<<<\$BUFFER>>>\"; BUFFER=; zle .accept-line }; zle -N show; bindkey '^X' show; print ready\"\"-now"
listen '*ready-now*'
out=
zpty -w -n terminal "$2"$'\t'$'\x18'
listen '*>>>*'
print -r -- ${${out##*<<<}%%>>>*}
zpty -d terminal
