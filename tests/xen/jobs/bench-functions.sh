# Functions of the benchmark's jobs. benches/xen reads their output: `name key=value ...`, a line each.
. /functions
. /job/guest-functions.sh

is_stub() { stub_id >/dev/null 2>&1; }
# Prints the store's own image or program, the target of updates.
successor() { if is_stub; then echo /job/kernel; else echo "$XEN_BIN/xenstored"; fi; }

# report NAME: prints the kernel's lines about memory and work, under that name. The daemon has none.
report() {
    is_stub || return 0
    lines=$(grep -c ' work: requests=' $console)
    xenstore-control check >/dev/null || echo "FAILED: xenstore-control check gave $?"
    until_true 10 sh -c "[ \$(grep -c ' work: requests=' $console) -gt $lines ]" || echo "FAILED: no line about work"
    echo "memory at=$1 $(sed -n 's/.* memory: //p' $console | tail -1)"
    echo "work at=$1 $(sed -n 's/.* work: //p' $console | tail -1)"
}

# An honest guest, which is this project's own small kernel: four MiB are the least that the builder makes.
cat >/root/honest.cfg <<END
type = "pv"
kernel = "/job/guest"
memory = 4
vcpus = 1
extra = "--hostile=serve"
END
# create_honest COUNT: creates COUNT guests by `xl create`, one after the other, as far as CREATE_SECONDS suffice. Puts
# their ids into $ids.
create_honest() {
    ids='' _made=0 _create_end=$(($(now_ms) + ${CREATE_SECONDS:-700} * 1000))
    while [ $_made -lt "$1" ]; do
        [ "$(now_ms)" -lt $_create_end ] || { echo "FAILED: only $_made of $1 guests in ${CREATE_SECONDS:-700} s"; return 1; }
        # -e leaves no process that waits for the guest's end.
        xl create -qe /root/honest.cfg "name=\"honest-$_made\"" || { echo "FAILED: the creation of guest $_made"; return 1; }
        ids="$ids $(xl domid "honest-$_made")"
        _made=$((_made + 1))
    done
}
destroy_honest() {
    for _id in $ids; do xl destroy "$_id"; done
    for _id in $ids; do until_true 60 gone "$_id" || echo "FAILED: domain $_id is still in the store"; done
}

# update_under_load NODES: makes one live update while a client reads all the time.
update_under_load() {
    rm -f /tmp/enough
    store-client latency /tmp/enough >/tmp/latency 2>&1 &
    reader=$!
    usleep 1000000
    begin=$(now_ms)
    xenstore-control live-update -t 300 "$(successor)" >/tmp/update.out 2>&1 || echo "FAILED: live update: $(tr '\n' ' ' </tmp/update.out)"
    echo "update nodes=$1 command_ms=$(($(now_ms) - begin))"
    usleep 500000
    : >/tmp/enough
    wait $reader || echo "FAILED: the reader of the update"
    echo "pause nodes=$1 $(sed 's/ us$//' /tmp/latency)"
    is_stub || return 0
    sed -n "s/.* live update: .* connections of .*, \([0-9]*\) bytes of state; saved in \([0-9]*\) us, switched in \([0-9]*\) us, restored in \([0-9]*\) us, took over in \([0-9]*\) us.*/parts nodes=$1 bytes=\1 saved=\2 switched=\3 restored=\4 took_over=\5/p" $console | tail -1
    xenstore-control update-report | sed -n "s/^memory: \([0-9]*\) KiB needed, \([0-9]*\) KiB free.*/needed nodes=$1 needed_kib=\1 free_kib=\2/p"
}
# updates SIZES ROUNDS: makes ROUNDS live updates with each number of nodes.
updates() {
    have=0
    for nodes in $1; do
        begin=$(now_ms)
        store-client nodes "/load/$nodes" $((nodes - have)) || { echo "FAILED: no $nodes nodes"; return 1; }
        echo "build nodes=$((nodes - have)) ms=$(($(now_ms) - begin))"
        have=$nodes
        round=0
        while [ $round -lt "$2" ]; do
            update_under_load "$nodes"
            round=$((round + 1))
        done
    done
}
