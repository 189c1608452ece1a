# COUNT tiny guests at once: the time to create them, whether each is served, and dom0's waits for a read next to them.
# Then all of them are destroyed.
. /job/bench-functions.sh
COUNT=${COUNT:-300}
at() { echo "at=$1 $(store-bench latency 3000 | sed 's/^latency //')"; }

store-bench latency 300 >/dev/null
report before
echo "scale $(at none)"
begin=$(now_ms)
create_honest "$COUNT" || xl list | tail -3
echo "created count=$(echo $ids | wc -w) ms=$(($(now_ms) - begin))"
report connected
store-bench ping 1 $ids
echo "scale $(at all)"
begin=$(now_ms)
destroy_honest
echo "destroyed count=$(echo $ids | wc -w) ms=$(($(now_ms) - begin))"
report after
