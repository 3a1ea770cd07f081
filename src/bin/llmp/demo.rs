//! `llmp demo`
pub mod broker {
    use crate::{arguments, failure::Failure};
    pub fn run(_: &arguments::DemoChild) -> Result<(), Failure> {
        todo!()
    }
}
pub mod client {
    use crate::{arguments, failure::Failure};
    pub fn run(_: &arguments::DemoChild) -> Result<(), Failure> {
        todo!()
    }
}
use crate::{arguments, failure::Failure};
pub fn run(_: arguments::Demo) -> Result<(), Failure> {
    todo!()
}
