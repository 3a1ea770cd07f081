//! The processes of one measurement: this program, started again in its roles.

use crate::role::{Part, Role};
use crate::watchdog;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The result of a role.
#[derive(Debug, Deserialize)]
pub struct Played {
    pub part: Part,
    pub result: Value,
}

impl Played {
    /// Returns whether the result has this flag.
    pub fn is(&self, name: &str) -> bool {
        self.result.get(name).and_then(Value::as_bool) == Some(true)
    }

    /// A number of the result.
    pub fn number(&self, name: &str) -> Result<f64> {
        let value = self.result.get(name).and_then(Value::as_f64);
        value.with_context(|| format!("{:?} did not report {name}", self.part))
    }
}

/// All processes of one measurement. They are ended when this is dropped.
pub struct Children {
    children: Vec<(Child, Option<ChildStdin>)>,
    lines: Receiver<(usize, String)>,
}

impl Children {
    /// Starts a process for each list of roles and waits until all are ready.
    pub fn start(processes: &[Vec<Role>]) -> Result<Self> {
        let (said, lines) = channel();
        let mut all = Children { children: Vec::new(), lines };
        for (i, roles) in processes.iter().enumerate() {
            let mut child = Command::new(std::env::current_exe()?)
                .arg("role")
                .arg(serde_json::to_string(roles)?)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let out = BufReader::new(child.stdout.take().context("no standard output")?);
            let stdin = child.stdin.take();
            all.children.push((child, stdin));
            let said = said.clone();
            std::thread::spawn(move || {
                for line in out.lines().map_while(Result::ok) {
                    if said.send((i, line)).is_err() {
                        return;
                    }
                }
                let _ = said.send((i, "ended".into()));
            });
        }
        for _ in processes {
            all.hear("ready")?;
        }
        Ok(all)
    }

    /// Lets all begin.
    pub fn go(&mut self) -> Result<Instant> {
        for (_, stdin) in &mut self.children {
            stdin.as_mut().context("no standard input")?.write_all(b"go\n")?;
        }
        Ok(Instant::now())
    }

    /// Returns the results of all roles.
    pub fn results(&mut self) -> Result<Vec<Played>> {
        let mut all = Vec::new();
        for _ in 0..self.children.len() {
            let said = self.hear("results ")?;
            all.extend(serde_json::from_str::<Vec<Played>>(&said)?);
        }
        Ok(all)
    }

    /// Lets all end and waits for it.
    pub fn end(mut self) -> Result<()> {
        for (_, stdin) in &mut self.children {
            drop(stdin.take());
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        for (child, _) in &mut self.children {
            while child.try_wait()?.is_none() {
                if Instant::now() > deadline {
                    bail!("a process does not end");
                }
                std::thread::sleep(Duration::from_micros(500));
            }
        }
        Ok(())
    }

    /// Removes the System V segments that our processes left behind, for example those of `ll_mp`'s
    /// broker. They would outlive all processes.
    fn remove_segments(&self) {
        let segments = std::fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
        let ours = |pid: &str| self.children.iter().any(|(child, _)| child.id().to_string() == pid);
        let mut ids = Vec::new();
        for line in segments.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if let [_, id, _, _, creator, ..] = fields[..]
                && ours(creator)
            {
                ids.extend(["-m".to_owned(), id.to_owned()]);
            }
        }
        if !ids.is_empty() {
            // Without this command the segments stay. The measurement is still valid.
            let _ = Command::new("ipcrm").args(ids).status();
        }
    }

    /// Returns this reason and those of other roles that failed with it. A role that loses a
    /// connection may report that before the role that closed it reports its reason.
    fn all_reasons(&self, first: &str) -> String {
        let more = || self.lines.recv_timeout(Duration::from_millis(200)).ok();
        let more = std::iter::from_fn(more)
            .filter_map(|(_, line)| line.strip_prefix("failed ").map(|why| format!("; {why}")));
        more.fold(first.to_owned(), |all, why| all + &why)
    }

    /// Returns the rest of the next line with this beginning.
    fn hear(&mut self, beginning: &str) -> Result<String> {
        watchdog::step();
        match self.lines.recv_timeout(watchdog::longest_step()) {
            Ok((i, line)) => match line.strip_prefix(beginning) {
                Some(rest) => Ok(rest.to_owned()),
                None if line == "ended" => {
                    let status = self.children[i].0.wait()?;
                    bail!("a process has ended too early: {status}")
                }
                None => match line.strip_prefix("failed ") {
                    Some(why) => bail!("{}", self.all_reasons(why)),
                    // Some libraries print to standard output.
                    None => self.hear(beginning),
                },
            },
            Err(RecvTimeoutError::Timeout) => {
                let processes = self.children.iter().map(|(child, _)| child.id());
                let threads = |pid| format!("process {pid}:\n{}", watchdog::threads(pid));
                let threads: String = processes.map(threads).collect();
                bail!("no process has said anything for {:?}\n{threads}", watchdog::longest_step())
            }
            Err(RecvTimeoutError::Disconnected) => bail!("all processes have ended"),
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for (child, _) in &mut self.children {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.remove_segments();
    }
}
