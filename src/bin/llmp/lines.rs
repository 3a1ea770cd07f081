//! Lines of any bytes, of which none takes more memory than it may.

use std::io::{self, BufRead, Read};

/// What stands next in an input.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// A line, without its newline.
    Line(&'a [u8]),
    /// A line that is longer than it may be; it was not read to its end.
    TooLong,
    /// Nothing any more.
    End,
}

/// Splits an input into lines.
pub struct Lines<R> {
    input: R,
    max_len: usize,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// Lines of at most `max_len` bytes each, newline not counted.
    pub fn new(input: R, max_len: usize) -> Self {
        Lines { input, max_len, line: Vec::new() }
    }

    /// The next line. The last one need not end with a newline.
    pub fn next(&mut self) -> io::Result<Next<'_>> {
        self.line.clear();
        // One byte for the newline.
        let limit = self.max_len as u64 + 1;
        self.input.by_ref().take(limit).read_until(b'\n', &mut self.line)?;
        match self.line.last() {
            None => return Ok(Next::End),
            Some(b'\n') => drop(self.line.pop()),
            Some(_) if self.line.len() > self.max_len => return Ok(Next::TooLong),
            Some(_) => {}
        }
        Ok(Next::Line(&self.line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_without_newlines_and_the_last_one_needs_none() {
        let mut lines = Lines::new(&b"a\n\n\xff\0\r\nlast"[..], 4);
        for line in [&b"a"[..], b"", b"\xff\0\r", b"last"] {
            assert_eq!(lines.next().unwrap(), Next::Line(line));
        }
        assert_eq!(lines.next().unwrap(), Next::End);
    }

    #[test]
    fn a_line_above_the_limit_is_said_and_one_at_the_limit_is_not() {
        let mut lines = Lines::new(&b"1234\n12345\n"[..], 4);
        assert_eq!(lines.next().unwrap(), Next::Line(b"1234"));
        assert_eq!(lines.next().unwrap(), Next::TooLong);
        assert_eq!(Lines::new(&b"12345"[..], 4).next().unwrap(), Next::TooLong);
    }
}
