//! Liveness under fairness: something good happens in each run in which every process gets its
//! turns.
//!
//! [`graph`] explores a system, [`components`] and [`lasso`] decide, [`report`] prints, and
//! [`hand_made`] tests them. [`bus`] has the properties of the bus, and [`setups`] says what they
//! are checked on.

mod bus;
mod components;
mod graph;
mod hand_made;
mod lasso;
mod report;
mod setups;

pub use graph::{Class, Classes, LeadsTo, System};
pub use report::{prove, refute};
