# Every xenstore command with its error cases, exit codes and permissions shown. The same script runs against the C
# server and against our kernel, and the outputs must be equal to the byte. It stays inside /test: the rest of the store
# describes domains, which the two boots do not share. Domain ids are ones that exist in neither boot. Only domain 0
# gets nodes: releases differ in their treatment of an owner that does not exist. The option -s of older tools requests
# a daemon's socket, which no Xenstore domain has: it is left out.
. /functions
# With a daemon too, the tools use Linux and dom0's ring, as with a Xenstore domain: tools and Linux have peculiarities
# of their own there. (The tools of 4.20 hang when a watch is refused, with any store.)
export XENSTORED_PATH=/dev/xen/xenbus
run() {
    echo "\$ $*"
    timeout 20 "$@"
    echo "-> $?"
}

echo "# what every store starts with"
for node in /tool /tool/xenstored /local /local/domain; do run xenstore-exists $node; done
xenstore-ls -fp / | grep -E '^/(tool|tool/xenstored|local|local/domain) ' | sort

echo "# write and read"
run xenstore-write /test ""
run xenstore-write /test/one 1
run xenstore-write /test/words "two words"
run xenstore-write /test/empty ""
run xenstore-write /test/deep/er/and/deeper below
run xenstore-write /test/a x /test/b y /test/c z
run xenstore-write /test/one
run xenstore-write
run xenstore-read /test/one
run xenstore-read /test/words /test/empty /test/a
run xenstore-read -p /test/one /test/words
run xenstore-read /test/missing
run xenstore-read /test/one /test/missing /test/a
run xenstore-read /test/deep
run xenstore-read
binary=$(printf 'a\tb\001c\377d\\e')
run xenstore-write /test/binary "$binary"
run xenstore-read /test/binary
run xenstore-ls /test

echo "# values and paths at and beyond their limits"
long=$(head -c 2048 /dev/zero | tr '\0' v)
xenstore-write /test/long "$long" 2>&1; echo "-> $?"
xenstore-read /test/long | wc -c
xenstore-write /test/long "${long}${long}" 2>&1 | cut -c1-60
xenstore-write /test/long "${long}w" 2>&1 | cut -c1-60
xenstore-read /test/long | wc -c
name=$(head -c 250 /dev/zero | tr '\0' n)
run xenstore-write "/test/$name" 1
path=/test; while [ ${#path} -lt 2000 ]; do path=$path/$name; done
# Some releases of the C server refuse longer paths to domain 0, others allow them.
xenstore-write "$(echo "$path" | cut -c1-2000)" 1 >/dev/null 2>&1; echo "2000 -> $?"
run xenstore-rm "/test/$name"
run xenstore-rm /test/long
for bad in "/test/" "/test//x" "test\$" "/te st/x" "/test/ä" "" "/test/a:b" "/test/a@b" "/test/-_"; do run xenstore-write "$bad" 1; done
run xenstore-read "/test//x"
run xenstore-read ""

echo "# list and exists"
run xenstore-list /test
run xenstore-list -p /test
run xenstore-list /test/deep /test/one
run xenstore-list /test/missing
run xenstore-list
run xenstore-exists /test
run xenstore-exists /test/missing
run xenstore-exists /test /test/missing
run xenstore-exists

echo "# ls"
run xenstore-ls /test
run xenstore-ls -f /test
run xenstore-ls -p /test
run xenstore-ls -fp /test/deep
run xenstore-ls /test/missing
run xenstore-ls /test/one

echo "# chmod"
run xenstore-chmod /test/one n0 r7
run xenstore-ls -p /test
run xenstore-chmod /test/one b0 r7
run xenstore-chmod /test/words w0 r7 b8
run xenstore-ls -fp /test
run xenstore-chmod -r /test/deep n0 r9
run xenstore-ls -fp /test/deep
run xenstore-chmod -u /test/deep/er/and w0 r8
run xenstore-ls -fp /test/deep
run xenstore-chmod /test/one x7
run xenstore-chmod /test/one n
run xenstore-chmod /test/one n0 r1 r2 r3 r4
run xenstore-chmod /test/one n0 r11 r12 r13 r14 r15
run xenstore-chmod /test/one n0 n7 b7 b8
run xenstore-chmod /test/missing n0
run xenstore-chmod /test/one
run xenstore-ls -fp /test
xenstore-write /test/one/child inherits
run xenstore-ls -fp /test/one

echo "# rm"
run xenstore-rm /test/one
run xenstore-read /test/one
run xenstore-rm /test/missing
run xenstore-rm /missing/parent
run xenstore-rm /
run xenstore-rm -t /test/deep/er/and/deeper
run xenstore-ls -f /test
run xenstore-rm /test/a /test/b
run xenstore-rm

echo "# relative paths belong to the caller's own area"
run xenstore-write relative/node here
run xenstore-read relative/node
run xenstore-read /local/domain/0/relative/node
run xenstore-rm relative
run xenstore-read domid

echo "# watch"
# watch EVENTS PATHS...: starts a watch that ends after EVENTS events, and waits for the first events.
watch() {
    count=$1
    shift
    timeout 20 xenstore-watch -n "$count" "$@" >/tmp/events 2>&1 &
    watcher=$!
    until_true 10 sh -c "[ \$(wc -l </tmp/events) -ge $# ]" || echo "no first event"
}
watched() {
    wait $watcher
    echo "-> $?"
    cat /tmp/events
}
watch 2 /test/c
xenstore-write /test/c new
watched
watch 4 /test/watched
xenstore-write /test/watched/below 1
xenstore-write /test/watched/below/more 2
xenstore-rm /test/watched
watched
watch 2 /test/watched
xenstore-chmod /test/c n0 r7
xenstore-write /test/elsewhere 1
xenstore-write /test/watched 1
watched
xenstore-write /test/c/child 1
watch 2 /test/c/child
xenstore-rm /test/c
watched
watch 4 /test/p /test/q
xenstore-write /test/q 1 /test/p 2
watched
watch 2 relative
xenstore-write relative 1
xenstore-rm relative
watched
run xenstore-watch -n 1 "/test//x"
run xenstore-watch -n 1 @nonsense
run xenstore-watch -n 1 @releaseDomain
run xenstore-watch

echo "# many children"
i=0
while [ $i -lt 300 ]; do set -- "$@" /test/many/child$i $i; i=$((i + 1)); done
xenstore-write "$@"; echo "-> $?"
xenstore-list /test/many | wc -l
xenstore-list /test/many | head -3
run xenstore-rm /test
run xenstore-exists /test
