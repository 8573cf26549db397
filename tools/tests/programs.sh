#!/usr/bin/env bash
# Real programs on a directory: unpack, git, a build, sqlite, rsync there and back. Prints what must be equal on every file system.
# programs.sh VENDORED DIRECTORY     (VENDORED: what `cargo vendor` made)
set -euo pipefail
vendored=$(realpath "$1")
here=$(realpath "$2")
export LC_ALL=C TZ=UTC GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
export GIT_AUTHOR_DATE='2026-01-01T00:00:00Z' GIT_COMMITTER_DATE='2026-01-01T00:00:00Z'
umask 022

# Every name with type, permissions, links, size of files, time (unless the second argument is "now") and target, and the checksum of every file; not what a
# file system decides itself.
tree() {
    local time='%TY-%Tm-%Td %TT'
    [ "${2:-}" != now ] || time=
    (cd "$1" && find . -path ./.git -prune -o \( -type d -printf '%p d %m\n' -o -type l -printf '%p l %l\n' -o -printf "%p %y %m %n %s $time\n" \) | sort
        find . -path ./.git -prune -o -type f -print0 | sort -z | xargs -0 sha256sum) | sha256sum
}

echo "== unpack"
(cd "$vendored" && tar --sort=name -cf - .) >"$here/sources.tar"
mkdir "$here/sources"
tar -xf "$here/sources.tar" -C "$here/sources"
tree "$here/sources"

echo "== git"
cd "$here/sources"
git init -q -b main .
git config gc.auto 0
git add -A .
git commit -q -m one
git rev-parse HEAD
git fsck --full --strict --no-progress 2>&1 | sort
git mv "$(git ls-files | head -n 1)" moved-file
git commit -q -m two
git gc -q
git rev-parse HEAD
git fsck --full --no-progress 2>&1 | sort
git status --porcelain
cd "$here"
git clone -q --no-hardlinks sources clone
git clone -q sources clone-with-links
(cd clone && git rev-parse HEAD && git status --porcelain)
tree clone now

echo "== build"
mkdir crate crate/src
cat >crate/Cargo.toml <<'EOT'
[package]
name = "probe"
version = "0.1.0"
edition = "2021"
[workspace]
EOT
echo 'fn main() { println!("built: {}", (1..=10).product::<u64>()); }' >crate/src/main.rs
(cd crate && CARGO_TARGET_DIR=target cargo build --quiet --offline && ./target/debug/probe && touch src/main.rs && CARGO_TARGET_DIR=target cargo build --quiet --offline)

echo "== sqlite"
for journal in delete wal; do
    sqlite3 db.$journal "pragma journal_mode=$journal; create table t(a integer primary key, b text);" >/dev/null
    for part in 1 2 3; do
        sqlite3 db.$journal "with recursive n(i) as (select 1 union all select i+1 from n where i < 2000) insert into t(b) select hex(i * $part) from n;"
    done
    sqlite3 db.$journal "delete from t where a % 3 = 0; vacuum; select count(*), sum(length(b)) from t; pragma integrity_check;"
done

echo "== rsync there and back"
mkdir extra
printf 'a' >extra/one
ln extra/one extra/two
ln -s one extra/link
mkfifo extra/fifo
setfattr -n user.note -v hello extra/one
chmod 4750 extra/one
truncate -s 3M extra/sparse
printf 'end' >>extra/sparse
away=$(mktemp -d)
trap 'rm -rf "$away"' EXIT
rsync -aHX extra sources/ "$away/" --exclude .git
rsync -aHX "$away/" back/
tree back now
rsync -aHXcn --delete --itemize-changes "$away/" back/
getfattr -n user.note --only-values back/extra/two
echo
stat -c '%n %F %a %h' back/extra/*
