//! What a bus is called.

use crate::error::BusError;
use std::path::{Path, PathBuf};

/// A bus by its name or by the path of its socket.
///
/// ```
/// use llmp::Bus;
/// assert_eq!(Bus::from("logs"), Bus::Name("logs".into()));
/// assert_eq!(Bus::from("./logs.sock"), Bus::Path("./logs.sock".into()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bus {
    /// The socket lies in `$XDG_RUNTIME_DIR/llmp/`, or else in a directory of the user's own
    /// below the one for temporary files.
    Name(String),
    /// The socket lies here, and its lock file beside it: the same path with `.lock` behind it.
    Path(PathBuf),
}

impl Bus {
    /// The path of the bus's socket. Makes the directory of named buses.
    ///
    /// # Errors
    ///
    /// [`BusError`] if the name can't be one or the directory can't be used.
    pub fn socket_path(&self) -> Result<PathBuf, BusError> {
        let name = match self {
            Bus::Path(path) => return Ok(path.clone()),
            Bus::Name(name) => name,
        };
        if name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.') {
            return Err(BusError::Name { name: name.clone() });
        }
        let directory = crate::sys::place::directory().map_err(BusError::Directory)?;
        Ok(directory.join(format!("{name}.sock")))
    }
}

impl Bus {
    /// The bus as a word of a shell's command line, in quotes where it needs them.
    ///
    /// ```
    /// assert_eq!(llmp::Bus::from("logs").shell_word(), "logs");
    /// assert_eq!(llmp::Bus::from("./my logs").shell_word(), "'./my logs'");
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

impl From<&str> for Bus {
    fn from(bus: &str) -> Self {
        if bus.contains('/') { Bus::Path(bus.into()) } else { Bus::Name(bus.into()) }
    }
}

impl From<String> for Bus {
    fn from(bus: String) -> Self {
        bus.as_str().into()
    }
}

impl From<&Path> for Bus {
    fn from(path: &Path) -> Self {
        Bus::Path(path.into())
    }
}

impl From<PathBuf> for Bus {
    fn from(path: PathBuf) -> Self {
        Bus::Path(path)
    }
}

impl From<&PathBuf> for Bus {
    fn from(path: &PathBuf) -> Self {
        Bus::Path(path.clone())
    }
}

impl From<&Bus> for Bus {
    fn from(bus: &Bus) -> Self {
        bus.clone()
    }
}

impl core::fmt::Display for Bus {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Bus::Name(name) => f.write_str(name),
            Bus::Path(path) => path.display().fmt(f),
        }
    }
}
