echo "$@" >> asked
option() { printf '%s\n' "$@" | sed -n "s/^--$name=//p"; }
name=starttime; s=$(date -u -d "$(option "$@")" +%s)
name=endtime; e=$(option "$@"); e=$(date -u -d "${e:-2100-01-01T00:00:00}" +%s)
name=jobs; jobs=$(option "$@")
if [ -z "$jobs" ] && [ -e widest ] && [ $((e - s)) -gt "$(cat widest)" ]; then
    [ -e hangs ] && { cat answer; while :; do sleep 1000; done; }
    words='Too wide of a date range in query'; [ -e size ] && words='Query result exceeds size limit'
    head -n 1 answer; echo "sacct: error: slurmdbd: $words" >&2; exit 1
fi
awk -F'|' -v s="$s" -v e="$e" -v jobs=",$jobs," 'NR == 1 || ((jobs == ",," ? $3 < e : index(jobs, "," $1 ",")) &&
    ($4 !~ /^[0-9]+$/ || $4 >= s))' answer
