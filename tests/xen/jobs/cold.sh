# What is in the store after a cold start, and whether it works.
. /functions
xenstore-ls -fp / >/results/restored.txt
echo "nodes: $(wc -l </results/restored.txt)"
xenstore-write /dumped/new here || echo "FAILED: xenstore-write gave $?"
[ "$(xenstore-read /dumped/new)" = here ] || echo "FAILED: what was written is not read"
xenstore-control check || echo "FAILED: xenstore-control check gave $?"
