//! A child process: this test program started again in one of the [`roles`](super::roles).
//!
//! It prints lines that begin with `@` and reads commands from its standard input.

use super::TIMEOUT;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

/// The role and its arguments, one a line.
pub const ROLE: &str = "LLMP_TEST_ROLE";

/// The emulator that runs this test program, and its arguments, one a line. `.ci/cross` sets it.
const RUNNER: &str = "LLMP_TEST_RUNNER";

pub struct Child {
    process: std::process::Child,
    lines: Receiver<String>,
    /// Lines that the test has not read yet.
    unheard: Vec<String>,
}

impl Child {
    pub fn start(role: &str, arguments: &[&dyn Display]) -> Self {
        let runner = std::env::var(RUNNER).unwrap_or_default();
        let program = std::env::current_exe().unwrap();
        let mut command: Vec<&OsStr> = runner.lines().map(OsStr::new).collect();
        command.push(program.as_os_str());
        Self::start_by(&command, role, arguments)
    }

    /// Starts it by another command: the same test program, built for another machine.
    pub fn start_by<S: AsRef<OsStr>>(
        command: &[S],
        role: &str,
        arguments: &[&dyn Display],
    ) -> Self {
        let mut words = vec![role.to_owned()];
        words.extend(arguments.iter().map(|a| a.to_string()));
        let mut process = Command::new(&command[0])
            .args(&command[1..])
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(ROLE, words.join("\n"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                // The test harness prints lines, too.
                if let Some((_, said)) = line.split_once('@')
                    && sender.send(said.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        Child { process, lines, unheard: Vec::new() }
    }

    /// Waits until it prints a line that begins with `beginning`. Returns the rest of the line.
    #[track_caller]
    pub fn says(&mut self, beginning: &str) -> String {
        if let Some(i) = self.unheard.iter().position(|line| line.starts_with(beginning)) {
            return self.unheard.remove(i)[beginning.len()..].trim().to_owned();
        }
        loop {
            let Ok(line) = self.lines.recv_timeout(TIMEOUT) else {
                panic!("waited for '{beginning}', heard {:?}", self.unheard);
            };
            match line.strip_prefix(beginning) {
                Some(rest) => return rest.trim().to_owned(),
                None => self.unheard.push(line),
            }
        }
    }

    /// Returns the next line that it prints, or `None` when it has ended.
    #[track_caller]
    pub fn line(&mut self) -> Option<String> {
        if !self.unheard.is_empty() {
            return Some(self.unheard.remove(0));
        }
        match self.lines.recv_timeout(TIMEOUT) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("it neither speaks nor ends"),
        }
    }

    /// Returns the number that it prints after `beginning`.
    #[track_caller]
    pub fn says_number(&mut self, beginning: &str) -> u32 {
        self.says(beginning).parse().unwrap()
    }

    /// Returns all lines up to the child's end that the test has not read.
    pub fn last_words(&mut self) -> Vec<String> {
        let mut words = std::mem::take(&mut self.unheard);
        words.extend(self.lines.iter());
        words
    }

    pub fn tell(&mut self, line: &str) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Takes the child's standard input. Closing it is a command, too.
    pub fn take_stdin(&mut self) -> ChildStdin {
        self.process.stdin.take().unwrap()
    }

    pub fn pid(&self) -> i32 {
        self.process.id() as i32
    }

    fn handle(&self) -> Pid {
        Pid::from_raw(self.pid()).unwrap()
    }

    /// Kills it with `SIGKILL` and waits until it has ended.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Stops it with `SIGSTOP` and waits until it stands.
    pub fn stop(&self) {
        kill_process(self.handle(), Signal::STOP).unwrap();
        let waited = waitpid(Some(self.handle()), WaitOptions::UNTRACED).unwrap();
        assert!(waited.is_some_and(|(_, status)| status.stopped()));
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        kill_process(self.handle(), Signal::CONT).unwrap();
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
