//! The demo delivers any content of a directory. When one of its processes dies, all of them end.

use crate::{Process, TIMEOUT, kill, llmp, noise};
use rustix::process::Signal;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ChildStderr;
use std::sync::mpsc::channel;

const WHOLE: &str = "lost 0, duplicated 0, corrupt 0";

/// Runs the demo, which must succeed, and returns its table.
fn table(dir: &Path) -> String {
    let stdout = Process::start(llmp(&["demo"]).arg(dir)).stdout();
    let table = String::from_utf8(stdout).unwrap();
    assert!(table.ends_with(&format!("\n{WHOLE}\n")), "{table}");
    table
}

fn row(table: &str, name: &str) -> String {
    let row = table.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    row.split_whitespace().next().unwrap().to_owned()
}

const BIG: usize = llmp::Limits::DEFAULT_BUDGET * 3 / 2;

#[test]
fn every_kind_of_file_arrives_whole() {
    let dir = tempfile::tempdir().unwrap();
    // More than a chain's budget: pages have to be written again, however slow the receivers are.
    let content = noise(BIG);
    std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
    for (name, content) in [
        (&b"empty"[..], &b""[..]),
        (b"big", &content),
        (b"a/b/one byte", b"x"),
        (b"not \xff\xfe UTF-8", b"content"),
        (b"new\nline", b"content"),
    ] {
        std::fs::write(dir.path().join(OsStr::from_bytes(name)), content).unwrap();
    }
    // Links are not followed, and sockets are no files.
    std::os::unix::fs::symlink("/", dir.path().join("a/root")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    let table = table(dir.path());
    assert_eq!(row(&table, "files"), "5");
    let delivered: u64 = row(&table, "bytes delivered").parse().unwrap();
    assert!(delivered > 2 * BIG as u64, "{table}");
    assert_ne!(row(&table, "page rollovers"), "0");
    assert_ne!(row(&table, "pages written again"), "0");
}

#[test]
fn many_small_files_arrive_whole() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..2000 {
        std::fs::write(dir.path().join(i.to_string()), vec![i as u8; i]).unwrap();
    }
    assert_eq!(row(&table(dir.path()), "files"), "2000");
}

#[test]
fn an_empty_directory_is_no_mistake() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(row(&table(dir.path()), "files"), "0");
}

/// A demo that runs until it is ended.
struct Endless {
    demo: Process,
    stderr: BufReader<ChildStderr>,
    /// The process ids of the broker and the clients.
    ids: Vec<u32>,
    /// Where the demo makes its temporary directory.
    home: tempfile::TempDir,
    _files: tempfile::TempDir,
}

impl Endless {
    fn start() -> Self {
        let files = tempfile::tempdir().unwrap();
        // A file that takes no room on the disk and hours to read.
        File::create(files.path().join("huge")).unwrap().set_len(1 << 43).unwrap();
        let home = tempfile::tempdir().unwrap();
        let mut command = llmp(&["demo"]);
        let mut demo = Process::start(command.arg(files.path()).env("TMPDIR", home.path()));
        let mut stderr = BufReader::new(demo.child().stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let ids = line.split("is process ").skip(1);
        let ids = ids.map(|text| text[..text.find([',', ';']).unwrap()].parse().unwrap());
        let ids: Vec<u32> = ids.collect();
        assert_eq!(ids.len(), 4, "{line}");
        Endless { demo, stderr, ids, home, _files: files }
    }

    /// Waits until no process of the demo is left: each holds its standard error. Returns their
    /// output there, and the demo's status.
    fn end(self) -> (String, Option<i32>) {
        let Endless { demo, mut stderr, home, .. } = self;
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            let _ = sender.send(text);
        });
        let text = receiver.recv_timeout(TIMEOUT).expect("a process has survived the demo");
        let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        (text, demo.output().status.code())
    }
}

#[test]
fn a_killed_process_is_named_and_ends_the_demo() {
    for (i, name) in ["broker", "client 1", "client 2", "client 3"].iter().enumerate() {
        let demo = Endless::start();
        let id = demo.ids[i];
        kill(id, Signal::KILL);
        let (text, status) = demo.end();
        assert_eq!(status, Some(1));
        assert!(text.contains(&format!("{name} (process {id}) was killed")), "{text}");
    }
}

#[test]
fn a_killed_parent_takes_its_processes_along() {
    let mut demo = Endless::start();
    demo.demo.signal(Signal::KILL);
    assert_eq!(demo.end().1, None);
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let mut demo = Endless::start();
    demo.demo.signal(Signal::INT);
    assert_eq!(demo.end().1, Some(130));
}
