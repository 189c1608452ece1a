# The contents of the store after a cold start, and whether it works.
. /functions
xenstore-ls -fp / >/results/restored.txt
echo "nodes: $(wc -l </results/restored.txt)"
xenstore-write /dumped/new here || echo "FAILED: xenstore-write gave $?"
[ "$(xenstore-read /dumped/new)" = here ] || echo "FAILED: a read does not return the written value"
xenstore-control check || echo "FAILED: xenstore-control check gave $?"
