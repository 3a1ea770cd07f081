//! Where the ends of a channel that knows only one process find each other.

use crate::peer::Place;
use anyhow::{Context, Result};
use std::any::Any;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

static LEFT: Mutex<Option<HashMap<PathBuf, Box<dyn Any + Send>>>> = Mutex::new(None);

/// Leaves the sending end for the thread that will ask for it.
pub fn leave(place: &Place, sender: impl Any + Send) -> Result<()> {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.get_or_insert_default().insert(place.path("end"), Box::new(sender));
    place.announce("")
}

/// Takes the sending end.
pub fn take<T: Any>(place: &Place) -> Result<T> {
    place.announced()?;
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    let end = left.get_or_insert_default().remove(&place.path("end"));
    let end = end.and_then(|end| end.downcast().ok());
    Ok(*end.context("the other end is in another process")?)
}
