# sh image_trial.sh ROOT USER FOLDER OUTPUT, in mount, network and process namespaces of its own.
# Runs $SERVER in ROOT, waits until $HEALTHCHECK succeeds, speaks into OUTPUT and ends the server.
# The root is read-only, but for /models, /data and /tmp; no capability is left, and no network.
set -eu
root=$1 user=$2 folder=$3 output=$4

mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
for writable in models data tmp; do
    mount -t tmpfs -o "mode=1777" tmpfs "$root/$writable"
done
mount -o remount,bind,ro "$root"
ip link set lo up

inside() {
    # SETTINGS are the image's variables, each quoted for the shell.
    eval "exec env -i $SETTINGS chroot \"\$root\" setpriv \
        --reuid ${user%:*} --regid ${user#*:} --clear-groups --no-new-privs --bounding-set=-all \
        sh -c 'cd \"\$0\" && exec \"\$@\"' \"\$folder\" $1"
}

if touch "$root/opt/csm-trio/written" 2> /dev/null; then
    echo "the root can be written" >&2
    exit 1
fi
inside "$SERVER" &
server=$!
seconds=0
until (inside "$HEALTHCHECK") 2> /dev/null; do
    kill -0 "$server"
    seconds=$((seconds + 1))
    test "$seconds" -lt 120
    sleep 1
done
(inside "csm-trio say 'Thank you for calling. How can I help you today?' --out /tmp/speech.wav")
cp "$root/tmp/speech.wav" "$output"
kill -TERM "$server"
wait "$server"
