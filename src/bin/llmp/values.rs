//! How values are written on the command line: sizes, users, durations, buses.

use llmp::{Access, Bus};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// `65536`, `64KiB`, `1MiB`, `2GiB`.
pub fn size(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        unit => return Err(format!("'{unit}' is no unit; use KiB, MiB or GiB, or bytes alone")),
    };
    let number: usize = digits.parse().map_err(|_| "give a size like 65536, 64KiB or 1MiB")?;
    number.checked_mul(1 << shift).ok_or_else(|| "this is more than memory can have".into())
}

/// A size of at least one byte.
pub fn chunk_len(text: &str) -> Result<usize, String> {
    match size(text)? {
        0 => Err("a chunk has at least one byte".into()),
        len => Ok(len),
    }
}

/// `same-user`, `everybody`, or the ids of users with commas between them.
pub fn access(text: &str) -> Result<Access, String> {
    match text {
        "same-user" => return Ok(Access::SameUser),
        "everybody" => return Ok(Access::Everybody),
        _ => {}
    }
    let users: Result<Vec<u32>, _> = text.split(',').map(|user| user.trim().parse()).collect();
    let help = "give same-user, everybody, or user ids like 1000,1001 (`id -u NAME` shows them)";
    users.map(Access::Users).map_err(|_| help.into())
}

/// Seconds, with a fraction or without.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "give seconds, like 5 or 0.5")?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// The name of a bus, or with a slash in it the path of its socket.
pub fn bus(text: OsString) -> Result<Bus, String> {
    if text.as_bytes().contains(&b'/') {
        return Ok(Bus::Path(text.into()));
    }
    let name = text.into_string().map_err(|_| "a bus's name is text; give a path with a slash")?;
    let bus = Bus::Name(name);
    match &bus {
        Bus::Name(name) if name.is_empty() || name.starts_with('.') => {
            Err("a bus's name must not be empty or begin with a dot; give a path with a slash"
                .into())
        }
        _ => Ok(bus),
    }
}

/// Bytes for people: `1.5 GiB`.
pub fn human(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(access("same-user"), Ok(Access::SameUser));
        assert_eq!(access("everybody"), Ok(Access::Everybody));
        assert_eq!(access("0,1000"), Ok(Access::Users(vec![0, 1000])));
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
