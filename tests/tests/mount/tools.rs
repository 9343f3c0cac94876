//! Programs that know nothing of us.

use std::path::PathBuf;

use dfs_tests::bench::drop_caches;
use dfs_tests::workload::{check_tree, make_tree, source_tree};
use tempfile::TempDir;

use super::{Case, Mounts, cases, shell};

pub(super) const CASES: [Case<Mounts>; 7] = cases![
    cp_and_diff_agree,
    tar_packs_and_unpacks,
    find_and_grep_find,
    rsync_copies_once,
    git_clones_commits_and_is_clean,
    dd_and_sha256sum_agree,
    editors_and_locks_work,
];

/// A tree on the local file system, and a directory on the mount.
fn tree_and_dir(mounts: &Mounts, name: &str) -> (TempDir, PathBuf) {
    let local = tempfile::tempdir().unwrap();
    make_tree(local.path(), &source_tree(11, 300)).unwrap();
    std::os::unix::fs::symlink("src", local.path().join("link")).unwrap();
    (local, mounts.mount.new_dir(name))
}

fn cp_and_diff_agree(mounts: &Mounts) {
    let (local, dir) = tree_and_dir(mounts, "tool-cp");
    let source = local.path().display();
    shell(
        &dir,
        &format!(
            "cp -a {source} copy && diff -r --no-dereference {source} copy && cp -r copy again && diff -r copy again"
        ),
    );
    drop_caches().unwrap();
    shell(&mounts.other.join("tool-cp"), &format!("diff -r --no-dereference {source} copy"));
    shell(&dir, "mv again moved && rm -r moved && test ! -e moved");
}

fn tar_packs_and_unpacks(mounts: &Mounts) {
    let (local, dir) = tree_and_dir(mounts, "tool-tar");
    let source = local.path().display();
    shell(
        &dir,
        &format!(
            "tar -C {source} -czf tree.tgz . && mkdir out && tar -C out -xzf tree.tgz && diff -r --no-dereference {source} out"
        ),
    );
    // Times and modes came along.
    let list = |root: &str| shell(&dir, &format!("cd {root} && find . -type f -printf '%p %m %T@\\n' | sort"));
    let local_times = shell(local.path(), "find . -type f -printf '%p %m %Ts\\n' | sort");
    let whole_seconds = shell(&dir, "cd out && find . -type f -printf '%p %m %Ts\\n' | sort");
    assert_eq!(whole_seconds, local_times);
    assert_eq!(list("out").lines().count(), 300);
}

fn find_and_grep_find(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("tool-find");
    let tree = source_tree(12, 200);
    make_tree(&dir, &tree).unwrap();
    check_tree(&dir, &tree).unwrap();
    shell(&dir, "echo 'a needle in it' > src/hay && echo none > src/straw");
    assert_eq!(shell(&dir, "grep -rl needle . | cat"), "./src/hay\n");
    assert_eq!(shell(&dir, "find . -name 'file*.rs' -type f | wc -l").trim(), "200");
    let empty = tree.iter().filter(|file| file.length == 0).count();
    assert_eq!(shell(&dir, "find . -type f -empty | wc -l").trim(), empty.to_string());
    assert_eq!(
        shell(&dir, "du -s --apparent-size . | cut -f1 >/dev/null; ls -lR . | wc -l; find . -delete; ls -A | wc -l")
            .lines()
            .last(),
        Some("0")
    );
}

fn rsync_copies_once(mounts: &Mounts) {
    let (local, dir) = tree_and_dir(mounts, "tool-rsync");
    let source = local.path().display();
    shell(&dir, &format!("rsync -a {source}/ copy/ && diff -r --no-dereference {source} copy"));
    assert_eq!(shell(&dir, &format!("rsync -ai {source}/ copy/")), "", "a second run has nothing to do");
    shell(
        &dir,
        &format!(
            "echo changed > {source}/new && rsync -a --delete {source}/ copy/ && diff -r --no-dereference {source} copy"
        ),
    );
}

fn git_clones_commits_and_is_clean(mounts: &Mounts) {
    let (local, dir) = tree_and_dir(mounts, "tool-git");
    let identity = "git -c user.name=t -c user.email=t@example.org";
    let source = local.path().display();
    shell(local.path(), &format!("git init -q . && git add . && {identity} commit -qm one"));
    shell(
        &dir,
        &format!(
            "git clone -q file://{source} clone && cd clone && test -z \"$(git status --porcelain)\" && git fsck --strict"
        ),
    );
    shell(
        &dir.join("clone"),
        &format!(
            "echo x > added && git add added && {identity} commit -qm two && git gc -q && git fsck && test -z \"$(git status --porcelain)\" && git log --oneline | wc -l | grep -x 2"
        ),
    );
    shell(
        &dir.join("clone"),
        "git checkout -q -b branch && git checkout -q HEAD~1 && git checkout -q branch && test -e added",
    );
}

fn dd_and_sha256sum_agree(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("tool-dd");
    let local = tempfile::tempdir().unwrap();
    shell(local.path(), "head -c 67000001 /dev/urandom > file");
    let source = local.path().join("file");
    let sum = |script: &str| shell(&dir, script).split_whitespace().next().unwrap_or_default().to_owned();
    let expected = sum(&format!("sha256sum {}", source.display()));
    for (name, options) in [("a", "bs=1M"), ("b", "bs=4k"), ("c", "bs=1M conv=fsync"), ("d", "bs=777777 oflag=append")]
    {
        shell(&dir, &format!("dd if={} of={name} {options} status=none", source.display()));
        assert_eq!(sum(&format!("sha256sum {name}")), expected, "{options}");
    }
    drop_caches().unwrap();
    for name in ["a", "b", "c", "d"] {
        assert_eq!(sum(&format!("sha256sum {name}")), expected, "{name}, cold");
    }
    shell(&dir, "cat a b > both && cmp <(cat a b) both && tail -c 1000 both | cmp - <(tail -c 1000 b) && rm *");
}

fn editors_and_locks_work(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("tool-edit");
    // What sed -i, sort -o and editors do: write a new file and rename it over the old one.
    shell(
        &dir,
        "printf 'b\\na\\n' > text && sed -i s/b/c/ text && sort -o text text && printf 'a\\nc\\n' | cmp - text",
    );
    shell(&dir, "flock lock true && flock -n lock echo locked");
    shell(
        &dir,
        "command -v python3 >/dev/null || exit 0; python3 -c \"import tempfile,os; f=tempfile.TemporaryFile(dir='.'); f.write(b'x'*100000); f.flush(); f.seek(0); assert f.read()==b'x'*100000\"",
    );
}
