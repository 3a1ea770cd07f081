//! What is done to the processes of a soak: they are killed, stopped, and told to leave.

use super::processes::{Kind, Process};
use super::{CALM, LONG_STOP, STOP, STORM, Soak, WITNESS};
use crate::arguments::WhenSlow;
use llmp::Broker;
use rustix::process::Signal;
use std::time::{Duration, Instant};

impl Soak {
    /// Does something to a process.
    pub(super) fn act(&mut self) {
        let is_storm =
            (self.began.elapsed().as_millis() % (STORM + CALM).as_millis()) < STORM.as_millis();
        let is_slow = |it: &Process| {
            matches!(it.kind, Kind::Client { when_slow: WhenSlow::Skip | WhenSlow::Evict, .. })
        };
        let is_client = |it: &Process| it.kind != Kind::Broker;
        let serves = |it: &Process| it.serves;
        let stands_by = |it: &Process| it.kind == Kind::Broker && !it.serves;
        match self.random.below(100) {
            0..18 if is_storm => {
                if self.kill(serves, "broker") {
                    self.brokers.push(Instant::now());
                    self.counts.brokers += 1;
                    self.pauses.broker_ends();
                }
            }
            18..21 if is_storm => self.hand_over(),
            21..23 => {
                self.counts.standbys += u64::from(self.kill(stands_by, "standby"));
            }
            23..25 => self.stop(serves, STOP),
            25..37 => self.stop(is_client, STOP),
            37..39 => self.stop(is_slow, LONG_STOP),
            39..46 => {
                if let Some((number, process)) = self.choose(is_client) {
                    process.leave();
                    self.counts.left += 1;
                    self.note(format_args!("process {number} leaves"));
                }
            }
            _ => self.counts.clients += u64::from(self.kill(is_client, "client")),
        }
    }

    /// Chooses a process that can be killed or stopped.
    fn choose(&mut self, is_meant: impl Fn(&Process) -> bool) -> Option<(u32, &mut Process)> {
        let can_be = |(number, it): &(&u32, &mut Process)| {
            **number != WITNESS && it.is_free() && is_meant(it)
        };
        let mut all: Vec<_> = self.processes.all.iter_mut().filter(can_be).collect();
        let index = self.random.below(all.len() as u64) as usize;
        (index < all.len()).then(|| all.swap_remove(index)).map(|(number, it)| (*number, it))
    }

    /// Kills one of these processes. Returns whether there was one.
    fn kill(&mut self, is_meant: impl Fn(&Process) -> bool, what: &str) -> bool {
        let signal = if self.random.below(4) == 0 { Signal::ABORT } else { Signal::KILL };
        let Some((number, process)) = self.choose(is_meant) else { return false };
        process.kill(signal);
        self.note(format_args!("process {number}, a {what}, is killed by {signal:?}"));
        true
    }

    fn stop(&mut self, is_meant: impl Fn(&Process) -> bool, longest: Duration) {
        let time = longest.mul_f64(self.random.below(1000) as f64 / 1000.0);
        let Some((number, process)) = self.choose(is_meant) else { return };
        process.stop(time);
        self.counts.stops += 1;
        self.note(format_args!("process {number} is stopped for {time:?}"));
    }

    /// Asks the broker to hand the bus over, from another thread.
    fn hand_over(&mut self) {
        self.note("hand over");
        self.brokers.push(Instant::now());
        let socket = self.socket.clone();
        // The broker may die meanwhile, or there may be none.
        std::thread::spawn(move || Broker::request_hand_over(socket, Duration::from_secs(1)));
    }
}
