//! The roles of a measurement's processes, and their dialogue with the measuring process.
//!
//! A role prints `ready`, waits for `go`, prints its result, and ends when its standard input is
//! closed. So no process closes a connection that others still use. Two roles may run as threads of
//! one process, for peers within one process.

use crate::content::Sabotage;
use crate::peer::{Place, Setup};
use crate::placement::pin;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt::Display;
use std::io::BufRead;
use std::sync::{Arc, Barrier, Mutex, PoisonError};

/// The task of a role.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Role {
    pub part: Part,
    pub peer: String,
    pub place: Place,
    pub setup: Setup,
    /// The processor to stay on.
    pub cpu: Option<usize>,
    pub seconds: f64,
    pub sabotage: Option<Sabotage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// One sender, one receiver: messages a second.
    StreamSender(Manner),
    StreamReceiver {
        manner: Manner,
        every_byte: bool,
    },
    /// One message there and back; if late, each end waits before it sends.
    Ping {
        late: bool,
    },
    Pong {
        late: bool,
    },
    /// All to all.
    Broker,
    BusClient {
        index: usize,
        clients: usize,
        every_byte: bool,
    },
    /// A receiver at half speed, and this many bytes for it.
    MemorySender {
        bytes: u64,
    },
    MemoryReceiver {
        bytes: u64,
    },
    /// This many messages a second, or none.
    RateSender {
        per_second: u64,
    },
    RateReceiver,
    /// This many clients join at once.
    Joiner {
        clients: usize,
    },
}

/// The way in which a stream is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Manner {
    OneByOne,
    /// Several at once.
    Batches,
    /// One by one, written where they will lie.
    InPlace,
}

/// Lets the threads of one process act as one.
struct Together {
    barrier: Barrier,
    results: Mutex<Vec<Value>>,
}

/// Synchronises the beginning and the end of a role.
pub struct Start(Arc<Together>);

impl Start {
    /// Reports that this role is ready and waits until all are.
    pub fn ready(&self) {
        self.0.barrier.wait();
        self.0.barrier.wait();
    }

    /// Reports the result and waits until no role needs this end any more.
    pub fn finished(&self, part: Part, result: Value) {
        let mut results = self.0.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.push(json!({ "part": part, "result": result }));
        drop(results);
        self.0.barrier.wait();
        self.0.barrier.wait();
    }
}

/// Plays the roles, each on a thread of its own.
pub fn play(roles: &str, act: fn(&Role, &Start) -> Result<()>) -> Result<()> {
    let roles: Vec<Role> = serde_json::from_str(roles).context("roles that make no sense")?;
    // A role that fails silently would make the others wait for ever.
    std::panic::set_hook(Box::new(|panic| fail(&panic)));
    let barrier = Barrier::new(roles.len() + 1);
    let together = Arc::new(Together { barrier, results: Mutex::default() });
    let mut threads = Vec::new();
    for role in roles {
        let start = Start(together.clone());
        threads.push(std::thread::spawn(move || {
            let played = role.cpu.map_or(Ok(()), pin).and_then(|()| act(&role, &start));
            if let Err(error) = played {
                fail(&format_args!("{:?} of {}: {error:#}", role.part, role.peer));
            }
        }));
    }
    together.barrier.wait();
    say_and_hear("ready");
    together.barrier.wait();
    together.barrier.wait();
    let results =
        std::mem::take(&mut *together.results.lock().unwrap_or_else(PoisonError::into_inner));
    say_and_hear(&format!("results {}", Value::Array(results)));
    together.barrier.wait();
    for thread in threads {
        // A role that failed has ended the process already.
        let _ = thread.join();
    }
    Ok(())
}

/// Says a line and waits for an answer or for the end of the measuring process.
fn say_and_hear(text: &str) {
    println!("{text}");
    let mut line = String::new();
    let _ = std::io::stdin().lock().read_line(&mut line);
}

fn fail(why: &dyn Display) -> ! {
    println!("failed {}", why.to_string().replace('\n', " "));
    std::process::exit(1)
}
