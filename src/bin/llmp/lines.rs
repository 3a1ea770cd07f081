//! Splits an input into lines with bounded memory.

/// What to do with a line that is longer than a message may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Oversize {
    /// Skip it, report its number, and end with status 1
    Error,
    /// Skip it and report its number
    Skip,
    /// Send it in parts, each of them a message
    Split,
}

/// A part of an input.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A line without its newline, or a part of a split line.
    Line(&'a [u8]),
    /// The number of a skipped line that is too long, counted from 1.
    TooLong(u64),
}

/// Splits an input into lines.
pub struct Lines {
    max_len: usize,
    oversize: Oversize,
    /// The beginning of a line whose end has not arrived.
    begun: Vec<u8>,
    /// Whether the rest of the line is skipped, and whether a part of it was sent.
    skips: bool,
    splits: bool,
    number: u64,
}

impl Lines {
    /// Splits into lines of at most `max_len` bytes each, without the newline.
    pub fn new(max_len: usize, oversize: Oversize) -> Self {
        Lines { max_len, oversize, begun: Vec::new(), skips: false, splits: false, number: 1 }
    }

    /// Takes the next bytes of the input and passes each line that ends in them to `take`.
    pub fn push<E>(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (line, ends) = match memchr(rest) {
                Some(at) => (&rest[..at], true),
                None => (rest, false),
            };
            rest = &rest[line.len() + usize::from(ends)..];
            self.add(line, &mut take)?;
            if ends {
                self.end_line(&mut take)?;
                self.number += 1;
            }
        }
        Ok(())
    }

    /// Ends the input. Its last line may lack a newline.
    pub fn finish<E>(&mut self, mut take: impl FnMut(Piece<'_>) -> Result<(), E>) -> Result<(), E> {
        if self.begun.is_empty() { Ok(()) } else { self.end_line(&mut take) }
    }

    fn add<E>(
        &mut self,
        mut part: &[u8],
        take: &mut impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while !self.skips && self.begun.len() + part.len() > self.max_len {
            if self.oversize != Oversize::Split || self.max_len == 0 {
                self.begun.clear();
                self.skips = true;
                take(Piece::TooLong(self.number))?;
                break;
            }
            let (now, later) = part.split_at(self.max_len - self.begun.len());
            self.begun.extend_from_slice(now);
            part = later;
            self.splits = true;
            take(Piece::Line(&self.begun))?;
            self.begun.clear();
        }
        if !self.skips {
            self.begun.extend_from_slice(part);
        }
        Ok(())
    }

    fn end_line<E>(&mut self, take: &mut impl FnMut(Piece<'_>) -> Result<(), E>) -> Result<(), E> {
        let (skips, splits) = (self.skips, self.splits);
        (self.skips, self.splits) = (false, false);
        let line = std::mem::take(&mut self.begun);
        // A split line may end exactly with a full part. Then no part is left.
        let result = match skips || splits && line.is_empty() {
            true => Ok(()),
            false => take(Piece::Line(&line)),
        };
        // Keeps the allocation.
        self.begun = line;
        self.begun.clear();
        result
    }
}

fn memchr(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|&byte| byte == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the pieces of an input that arrives in parts of length `part`.
    fn pieces(input: &[u8], part: usize, oversize: Oversize) -> Vec<Result<Vec<u8>, u64>> {
        let (mut lines, mut found) = (Lines::new(4, oversize), Vec::new());
        let mut take = |piece: Piece<'_>| {
            found.push(match piece {
                Piece::Line(line) => Ok(line.to_vec()),
                Piece::TooLong(number) => Err(number),
            });
            Ok::<(), ()>(())
        };
        for part in input.chunks(part) {
            lines.push(part, &mut take).unwrap();
        }
        lines.finish(&mut take).unwrap();
        found
    }

    fn line(text: &str) -> Result<Vec<u8>, u64> {
        Ok(text.as_bytes().to_vec())
    }

    #[test]
    fn lines_come_without_newlines_and_the_last_one_needs_none() {
        for part in 1..12 {
            let found = pieces(b"a\n\n\xff\0\r\nlast", part, Oversize::Error);
            assert_eq!(found, [line("a"), line(""), Ok(b"\xff\0\r".to_vec()), line("last")]);
            assert_eq!(pieces(b"", part, Oversize::Error), []);
            assert_eq!(pieces(b"\n", part, Oversize::Error), [line("")]);
        }
    }

    #[test]
    fn a_line_above_the_limit_does_not_stop_those_behind_it() {
        for part in 1..16 {
            for oversize in [Oversize::Error, Oversize::Skip] {
                let found = pieces(b"1234\n12345\n1\n123456789", part, oversize);
                assert_eq!(found, [line("1234"), Err(2), line("1"), Err(4)]);
            }
            let found = pieces(b"1234\n12345\n12345678\n\n123456789", part, Oversize::Split);
            let parts = ["1234", "1234", "5", "1234", "5678", "", "1234", "5678", "9"];
            assert_eq!(found, parts.map(line));
        }
    }
}
