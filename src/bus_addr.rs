//! What a bus is called.

use crate::error::BusError;
use std::path::{Path, PathBuf};

/// A bus by its name or by the path of its socket.
///
/// ```
/// use llmp::BusAddr;
/// assert_eq!(BusAddr::from("logs"), BusAddr::Name("logs".into()));
/// assert_eq!(BusAddr::from("./logs.sock"), BusAddr::Path("./logs.sock".into()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusAddr {
    /// The socket lies in `$XDG_RUNTIME_DIR/llmp/`, or else in a directory of the user's own
    /// below the one for temporary files.
    Name(String),
    /// The socket lies here, and its lock file beside it: the same path with `.lock` behind it.
    Path(PathBuf),
}

impl BusAddr {
    /// The path of the bus's socket. Makes the directory of named buses.
    ///
    /// # Errors
    ///
    /// [`BusError`] if the name can't be one or the directory can't be used.
    pub fn socket_path(&self) -> Result<PathBuf, BusError> {
        let name = match self {
            BusAddr::Path(path) => return Ok(path.clone()),
            BusAddr::Name(name) => name,
        };
        if name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.') {
            return Err(BusError::Name { name: name.clone() });
        }
        let directory = crate::place::directory().map_err(BusError::Directory)?;
        Ok(directory.join(format!("{name}.sock")))
    }
}

impl BusAddr {
    /// The bus as a word of a shell's command line, in quotes where it needs them.
    ///
    /// ```
    /// assert_eq!(llmp::BusAddr::from("logs").shell_word(), "logs");
    /// assert_eq!(llmp::BusAddr::from("./my logs").shell_word(), "'./my logs'");
    /// ```
    pub fn shell_word(&self) -> String {
        quoted(&self.to_string())
    }
}

/// A word as a shell reads it.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

impl From<&str> for BusAddr {
    fn from(bus: &str) -> Self {
        if bus.contains('/') { BusAddr::Path(bus.into()) } else { BusAddr::Name(bus.into()) }
    }
}

impl From<String> for BusAddr {
    fn from(bus: String) -> Self {
        bus.as_str().into()
    }
}

impl From<&Path> for BusAddr {
    fn from(path: &Path) -> Self {
        BusAddr::Path(path.into())
    }
}

impl From<PathBuf> for BusAddr {
    fn from(path: PathBuf) -> Self {
        BusAddr::Path(path)
    }
}

impl From<&PathBuf> for BusAddr {
    fn from(path: &PathBuf) -> Self {
        BusAddr::Path(path.clone())
    }
}

impl From<&BusAddr> for BusAddr {
    fn from(bus: &BusAddr) -> Self {
        bus.clone()
    }
}

impl core::fmt::Display for BusAddr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            BusAddr::Name(name) => f.write_str(name),
            BusAddr::Path(path) => path.display().fmt(f),
        }
    }
}
