//! The address of a bus.

use crate::error::BusError;
use std::path::{Path, PathBuf};

/// The address of a bus: its name or the path of its socket. A string with a slash is a path.
///
/// ```
/// use llmp::BusAddr;
/// assert_eq!(BusAddr::from("logs"), BusAddr::Name("logs".into()));
/// assert_eq!(BusAddr::from("./logs.sock"), BusAddr::Path("./logs.sock".into()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusAddr {
    /// A name. The socket is in `$XDG_RUNTIME_DIR/llmp/`, or else in a directory of the user's own
    /// below the directory for temporary files.
    Name(String),
    /// The path of the socket. Its lock file has the same path with `.lock` appended.
    Path(PathBuf),
}

impl BusAddr {
    /// Returns the path of the bus's socket. Creates the directory of named buses if needed.
    ///
    /// ```
    /// use llmp::BusAddr;
    /// use std::path::Path;
    ///
    /// assert_eq!(BusAddr::from("./logs.sock").socket_path()?, Path::new("./logs.sock"));
    /// assert!(BusAddr::from(".hidden").socket_path().is_err());
    /// # Ok::<(), llmp::BusError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`BusError`] if the name is invalid or the directory can't be used.
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
    /// Returns the bus as a word for a shell's command line, in quotes if needed.
    ///
    /// ```
    /// assert_eq!(llmp::BusAddr::from("logs").shell_word(), "logs");
    /// assert_eq!(llmp::BusAddr::from("./my logs").shell_word(), "'./my logs'");
    /// ```
    pub fn shell_word(&self) -> String {
        quoted(&self.to_string())
    }
}

/// Quotes a word for a shell.
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
