//! Parses the values of the command line: sizes, users, durations, buses.

use super::failure::Failure;
use llmp::{BusAddr, ConnectError, Flags, PeerFilter};
use rustix::fs::OFlags;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// Parses a size: `65536`, `64KiB`, `1MiB`, `2GiB`.
pub fn size(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        unit => return Err(format!("unknown unit '{unit}'; use KiB, MiB or GiB, or plain bytes")),
    };
    let number: usize = digits.parse().map_err(|_| "give a size like 65536, 64KiB or 1MiB")?;
    number.checked_mul(1 << shift).ok_or_else(|| "the size is too large".into())
}

/// Parses a size of at least one byte.
pub fn chunk_len(text: &str) -> Result<usize, String> {
    match size(text)? {
        0 => Err("a chunk needs at least one byte".into()),
        len => Ok(len),
    }
}

/// Parses `same-user`, `everybody`, or user ids separated by commas.
pub fn access(text: &str) -> Result<PeerFilter, String> {
    match text {
        "same-user" => return Ok(PeerFilter::SameUser),
        "everybody" => return Ok(PeerFilter::Everybody),
        _ => {}
    }
    let users: Result<Vec<u32>, _> = text.split(',').map(|user| user.trim().parse()).collect();
    let help = "give same-user, everybody, or user ids like 1000,1001 (`id -u NAME` shows them)";
    users.map(PeerFilter::Users).map_err(|_| help.into())
}

/// The value that means no time limit.
pub const FOR_EVER: &str = "forever";

/// Parses seconds, with or without a fraction.
pub fn seconds(text: &str) -> Result<Duration, String> {
    if text == FOR_EVER {
        return Ok(Duration::MAX);
    }
    let seconds: f64 = text.parse().map_err(|_| "give seconds, like 5 or 0.5")?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// Parses minutes above zero, with or without a fraction.
pub fn minutes(text: &str) -> Result<Duration, String> {
    let minutes = text.parse().ok().filter(|minutes: &f64| *minutes > 0.0);
    let time = minutes.and_then(|minutes| Duration::try_from_secs_f64(60.0 * minutes).ok());
    time.ok_or_else(|| "give minutes above 0, like 1 or 0.5".into())
}

/// Parses the name of a bus, or the path of its socket if it contains a slash.
pub fn bus(text: OsString) -> Result<BusAddr, String> {
    if text.as_bytes().contains(&b'/') {
        return Ok(BusAddr::Path(text.into()));
    }
    let name =
        text.into_string().map_err(|_| "a bus's name must be UTF-8; give a path with a slash")?;
    let bus = BusAddr::Name(name);
    match &bus {
        BusAddr::Name(name) if name.is_empty() || name.starts_with('.') => {
            Err("a bus's name must not be empty or begin with a dot; give a path with a slash"
                .into())
        }
        _ => Ok(bus),
    }
}

/// The flags of a message without a payload that marks the end of a transfer.
pub const END_OF_TRANSFER: Flags = Flags(1);

/// Converts an error of a connection. A bus that did not appear in time is a passed time limit.
pub fn connect_error(error: ConnectError, has_waited: bool) -> Failure {
    match error {
        ConnectError::NoBus { .. } if has_waited => Failure::late(error),
        error => error.into(),
    }
}

/// Returns whether a standard stream was closed when this process began. The Rust runtime opens
/// `/dev/null` for reading and writing in its place. A shell's redirection opens it for only one of
/// them.
pub fn is_closed(stream: &impl AsFd) -> bool {
    let null = rustix::fs::stat("/dev/null").map(|null| null.st_rdev);
    let found = rustix::fs::fstat(stream).map(|found| found.st_rdev);
    let flags = rustix::fs::fcntl_getfl(stream);
    let is_null = matches!((null, found), (Ok(null), Ok(found)) if null == found && null != 0);
    is_null && flags.is_ok_and(|flags| flags.contains(OFlags::RDWR))
}

/// Parses a whole number.
pub fn whole(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "give a whole number, like 5".into())
}

/// Parses a number of receivers.
pub fn receivers(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "give a whole number, like 2".into())
}

/// Parses a tag, a number of 32 bits.
pub fn tag(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("give a whole number from 0 to {}", u32::MAX))
}

/// Parses the number of a descriptor.
pub fn descriptor(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "give the number of a descriptor, like 3".into())
}

/// Formats the size of a constant of the library for a help text.
pub fn size_text(bytes: usize) -> String {
    match bytes {
        bytes if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        bytes if bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        bytes => bytes.to_string(),
    }
}

/// Formats bytes for people: `1.5 GiB`.
pub fn human(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_are_above_zero() {
        assert_eq!(minutes("0.5"), Ok(Duration::from_secs(30)));
        for wrong in ["0", "-1", "nan", "inf", "1e300", "", "one"] {
            assert!(minutes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_bytes_or_binary_units() {
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("65536"), Ok(65536));
        assert_eq!(size("64KiB"), Ok(65536));
        assert_eq!(size("3MiB"), Ok(3 << 20));
        assert_eq!(size("2GiB"), Ok(2 << 30));
        for wrong in ["", "KiB", "64kb", "64 KiB", "-1", "1.5MiB", "99999999999999999999", "64é"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        assert!(size("99999999999999GiB").is_err());
        assert!(chunk_len("0").is_err());
    }

    #[test]
    fn users_are_words_or_ids() {
        assert_eq!(access("same-user"), Ok(PeerFilter::SameUser));
        assert_eq!(access("everybody"), Ok(PeerFilter::Everybody));
        assert_eq!(access("0,1000"), Ok(PeerFilter::Users(vec![0, 1000])));
        for wrong in ["", "root", "1000,", "-1"] {
            assert!(access(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn seconds_are_not_negative() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["-1", "nan", "inf", "soon"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
