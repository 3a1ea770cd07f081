//! The workloads: what is done, by which roles, and what is reported of it.

pub mod stream;

use crate::measure::{Cell, Plan};
use crate::role::{Part, Role, Start};
use anyhow::{Result, bail};

/// Plays a role: the entry of every process that a measurement starts.
pub fn act(role: &Role, start: &Start) -> Result<()> {
    match role.part {
        Part::StreamSender { .. } | Part::StreamReceiver { .. } => stream::act(role, start),
        part => bail!("{part:?} is not a role yet"),
    }
}

/// All cells of all workloads.
pub fn cells(plan: &Plan) -> Vec<Cell> {
    stream::cells(plan)
}
