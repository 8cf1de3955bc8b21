# Runs a containerd with everything of its own in a folder. Usage: containerd.sh FOLDER PROGRAMS; the folder holds config.toml.
set -eu
folder=$1 programs=$2
export PATH="$programs:/usr/sbin:/usr/bin:/sbin:/bin"
exec containerd --config "$folder/config.toml" >"$folder/log" 2>&1
