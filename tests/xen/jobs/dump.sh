# The state that the C server hands to its successor, which is itself, and the output of xenstore-ls: for a cold start.
. /functions

for name in plain 'with space' 'ä'; do xenstore-write "/dumped/$name" "value of $name"; done
xenstore-write /dumped/bytes 'a\x01\xff\\b' /dumped/empty '' /dumped/deep/er/and/deeper x
i=0
while [ $i -lt 200 ]; do
    set -- "$@" "/dumped/many/$i" "$i"
    i=$((i + 1))
done
xenstore-write "$@"
xenstore-chmod /dumped/plain n0 r0 || echo "FAILED: xenstore-chmod gave $?"
xenstore-chmod /dumped/deep b0 || echo "FAILED: xenstore-chmod gave $?"
xenstore-ls -fp / >/results/dumped.txt

cat >/tmp/keep-the-stream <<END
#!/bin/sh
cp "\$(find /run /var -name state_dump | head -1)" /results/stream
exec $(command -v xenstored) "\$@"
END
chmod +x /tmp/keep-the-stream
xenstore-control live-update /tmp/keep-the-stream || echo "FAILED: live-update gave $?"
xenstore-ls -fp / >/results/dumped-after.txt
cmp /results/dumped.txt /results/dumped-after.txt || echo "FAILED: the C server lost something"
[ -s /results/stream ] || echo "FAILED: no stream was kept"
echo "nodes: $(wc -l </results/dumped.txt)"
