#!/usr/bin/env bash
# Build a replacement for the base image of our Dockerfile without a registry: Debian by
# debootstrap, with this machine's Python in /usr/local, as in the official image. It has the
# official name, so that the Dockerfile builds unchanged.
#
#     tests/containers/base_image.sh NAME PYTHON
#
# NAME: as in the Dockerfile. PYTHON: an interpreter of the same minor version.
set -euo pipefail
name=$1
prefix=$("$2" -c 'import sys; print(sys.base_prefix)')
version=$("$2" -c 'import sys; print("{}.{}".format(*sys.version_info))')
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

# The libraries that Python's extension modules are linked to.
libraries=ca-certificates,libbz2-1.0,libexpat1,libffi8,liblzma5,libncursesw6
libraries+=,libreadline8,libsqlite3-0,libssl3,libuuid1,netbase,zlib1g
debootstrap --variant=minbase --include="$libraries" \
    bookworm "$root" >"$root.log" 2>&1 || { cat "$root.log" >&2; exit 1; }
tar -C "$prefix" -c --exclude="lib/python$version/site-packages/*" \
    --exclude="lib/python$version/test" --exclude='*.a' \
    "bin/python$version" "lib/python$version" include \
    $(cd "$prefix" && ls lib/libpython*.so* | tr '\n' ' ') | tar -C "$root/usr/local" -x
ln -s "python$version" "$root/usr/local/bin/python"
ln -s "python$version" "$root/usr/local/bin/python3"
chroot "$root" ldconfig
chroot "$root" /usr/local/bin/python -m ensurepip >/dev/null 2>&1
ln -s pip3 "$root/usr/local/bin/pip"
rm -rf "$root/var/cache/apt" "$root/var/lib/apt/lists" "$root.log"
tar -C "$root" -c . | podman import --quiet --change 'CMD ["python3"]' - "$name"
