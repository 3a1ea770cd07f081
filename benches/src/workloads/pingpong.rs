//! 64 bytes there and back between two processes.
//!
//! An end may poll for a while before it sleeps, and so catch an answer that comes at once. Late
//! answers come after that, so each end is asleep when its message comes.

use super::hardware::{BARE, wake_by_socket};
use super::quantiles;
use crate::clock::{Ticks, ticks, work};
use crate::content::{Check, Content};
use crate::measure::{Cell, Plan};
use crate::peer::{Peer, Setup, Waiting, recv, send};
use crate::peers::PEERS;
use crate::role::{Part, Role, Start};
use crate::with_peer;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::time::{Duration, Instant};

const LEN: usize = 64;
/// Round trips before the first that counts.
const WARM_UP: u64 = 200;
const BETWEEN_LOOKS: u64 = 16;
/// Work of each end before it sends, in the late case. It is not counted.
pub const LATE: Duration = Duration::from_micros(200);
/// Fewer are needed where nothing is tuned to what came before, and each takes long.
const WARM_UP_LATE: u64 = 20;

const CASES: [(&str, Waiting, bool); 3] = [
    ("polling", Waiting::Poll, false),
    ("sleeping", Waiting::Sleep, false),
    ("sleeping, late answers", Waiting::Sleep, true),
];

pub fn cells(_: &Plan) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (text, waiting, late) in CASES {
        for peer in PEERS.iter().filter(|peer| peer.waits(waiting) && peer.name != "llmp-borrow") {
            let cell = Cell::new("ping-pong", text.into(), peer.name, move |run| {
                let setup = Setup { waiting, ..Setup::new(LEN) };
                let place = run.place("ball");
                let mut ping = run.role(Part::Ping { late }, peer, &place, &setup, 0);
                if late {
                    ping.seconds *= 2.0;
                }
                let pong = run.role(Part::Pong { late }, peer, &place, &setup, 1);
                let played = run.play_pair(peer, ping, pong)?;
                let played = played.iter().find(|played| played.part == Part::Ping { late });
                super::all_figures(played.context("no role has measured")?)
            });
            cells.push(cell.len(LEN));
        }
        if waiting == Waiting::Sleep {
            let late = if late { LATE } else { Duration::ZERO };
            cells.push(Cell::new("ping-pong", text.into(), BARE, move |_| wake_by_socket(late)));
        }
    }
    cells
}

pub fn act(role: &Role, start: &Start) -> Result<()> {
    let len = role.setup.len;
    match role.part {
        Part::Ping { late } => with_peer!(role.peer.as_str(), len, ping(role, start, late)),
        Part::Pong { late } => with_peer!(role.peer.as_str(), len, pong(role, start, late)),
        part => bail!("{part:?} is no part of a ping-pong"),
    }
}

fn ping<P: Peer>(role: &Role, start: &Start, late: bool) -> Result<()> {
    let waiting = role.setup.waiting;
    let mut content = Content::new(role.setup.len, 0, role.sabotage);
    let mut check = Check::new(role.setup.len, 1, true);
    let mut there = P::sender(&role.place.named("there"), &role.setup)?;
    let mut back = P::receiver(&role.place.named("back"), &role.setup)?;
    let warm_up = if late { WARM_UP_LATE } else { WARM_UP };
    let not_counted = if late { LATE.as_nanos() as u64 } else { 0 };
    start.ready();
    let clock = Ticks::new();
    let mut times = Vec::with_capacity(1 << 20);
    let end = Instant::now() + Duration::from_secs_f64(role.seconds);
    let mut last = ticks();
    while !content.count().is_multiple_of(BETWEEN_LOOKS)
        || content.count() < 2 * warm_up
        || Instant::now() < end
    {
        if late {
            work(LATE);
        }
        if late || content.count().is_multiple_of(BETWEEN_LOOKS) {
            last = ticks();
        }
        send(&mut there, waiting, content.message())?;
        recv(&mut back, waiting, |message| check.look(message))??;
        let now = ticks();
        if content.count() > warm_up {
            times.push(now.wrapping_sub(last));
        }
        last = now;
    }
    send(&mut there, waiting, content.end())?;
    if !recv(&mut back, waiting, |message| check.look(message))?? {
        bail!("the last message did not come back as the last one");
    }
    let tick_ns = clock.tick_ns();
    let times = times.into_iter().map(|ticks| (ticks as f64 * tick_ns) as u64);
    let times = times.map(|ns| ns.saturating_sub(not_counted)).collect();
    start.finished(role.part, json!(quantiles(times)));
    Ok(())
}

fn pong<P: Peer>(role: &Role, start: &Start, late: bool) -> Result<()> {
    let waiting = role.setup.waiting;
    let mut check = Check::new(role.setup.len, 1, true);
    let mut there = P::receiver(&role.place.named("there"), &role.setup)?;
    let mut back = P::sender(&role.place.named("back"), &role.setup)?;
    start.ready();
    let mut ended = false;
    while !ended {
        ended = recv(&mut there, waiting, |message| {
            let ended = check.look(message)?;
            if late {
                work(LATE);
            }
            send(&mut back, waiting, message)?;
            anyhow::Ok(ended)
        })??;
    }
    start.finished(role.part, json!({}));
    Ok(())
}
