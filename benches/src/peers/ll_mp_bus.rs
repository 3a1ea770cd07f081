//! LibAFL's `ll_mp` with its broker.

use crate::peer::Place;
use anyhow::{Context, Result};
use ll_mp::{LlmpBroker, LlmpClient};
use shmem_providers::{ShMemProvider, StdShMem, StdShMemProvider};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};

pub type Client = LlmpClient<StdShMem, StdShMemProvider>;

/// Serves until it is stopped. As shipped, a broker sleeps 5 ms between two cycles. This one yields
/// instead.
pub fn serve(place: &Place, stop: &AtomicBool) -> Result<()> {
    // It needs a number. This one is free.
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let mut broker = LlmpBroker::create_attach_to_tcp(StdShMemProvider::new()?, (), port)?;
    place.announce(&port.to_string())?;
    while !stop.load(Ordering::Relaxed) {
        if !broker.broker_once()? {
            std::thread::yield_now();
        }
    }
    Ok(())
}

pub fn connect(place: &Place) -> Result<Client> {
    let port = place.announced()?.parse().context("a port")?;
    Ok(LlmpClient::create_attach_to_tcp(StdShMemProvider::new()?, port)?)
}
