//! The chunked transfer coding (RFC 9112, section 7.1), wherever it is cut:
//!
//! ```text
//! 1a;ext=1 CRLF   <26 bytes>   CRLF   …   0 CRLF   Trailer: x CRLF   CRLF
//! size            data                    last     trailers
//! ```
//!
//! Bytes that were not copied are harmless inside of a chunk's data. Elsewhere they hide how it goes on.

use super::beginning::Beginning;
use super::text::hex_digit;

/// Where in the chunks the stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the digits of a chunk's size, with its value so far and whether there was a digit.
    Size(u64, bool),
    /// Behind them, before the end of the line.
    SizeEnd(u64),
    /// In a chunk's data, of which so much is to come.
    Data(u64),
    /// Before the line end behind it.
    DataEnd,
    /// In the trailers; whether the line is empty so far.
    Trailer(bool),
    /// Behind the end.
    Whole,
}

/// A chunked body that is being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunks {
    place: Place,
    data_len: u64,
}

/// Where the next chunk begins is no longer known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FramingLost;

impl Chunks {
    /// Before the first chunk.
    pub(super) fn new() -> Self {
        Self { place: Place::Size(0, false), data_len: 0 }
    }

    /// The last chunk and its trailers were read.
    pub(super) fn is_whole(&self) -> bool {
        self.place == Place::Whole
    }

    /// Bytes of data so far.
    pub(super) fn data_len(&self) -> u64 {
        self.data_len
    }

    /// Takes what belongs to the chunks from the front of `bytes`, tells how many bytes that were, and
    /// adds the data to `beginning`.
    pub(super) fn push(&mut self, bytes: &[u8], beginning: &mut Beginning) -> Result<usize, FramingLost> {
        let mut rest = bytes;
        while let [byte, behind @ ..] = rest {
            self.place = match (self.place, *byte) {
                (Place::Whole, _) => break,
                (Place::Data(left), _) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    let (data, behind) = rest.split_at(taken);
                    beginning.push(data);
                    self.pass_data(left, taken as u64);
                    rest = behind;
                    continue;
                }
                (Place::Size(size, true) | Place::SizeEnd(size), b'\n') => match size {
                    0 => Place::Trailer(true),
                    size => Place::Data(size),
                },
                (Place::Size(size, true), b'\r' | b';' | b' ' | b'\t') => Place::SizeEnd(size),
                (Place::SizeEnd(size), _) => Place::SizeEnd(size),
                (Place::Size(size, _), digit) => {
                    let digit = hex_digit(digit).ok_or(FramingLost)?;
                    let size = size.checked_mul(16).ok_or(FramingLost)?;
                    Place::Size(size | u64::from(digit), true)
                }
                (Place::DataEnd, b'\r') => Place::DataEnd,
                (Place::DataEnd, b'\n') => Place::Size(0, false),
                (Place::DataEnd, _) => return Err(FramingLost),
                (Place::Trailer(true), b'\n') => Place::Whole,
                (Place::Trailer(_), b'\n') => Place::Trailer(true),
                (Place::Trailer(is_empty), b'\r') => Place::Trailer(is_empty),
                (Place::Trailer(_), _) => Place::Trailer(false),
            };
            rest = behind;
        }
        Ok(bytes.len() - rest.len())
    }

    /// Passes over `len` bytes that were not copied.
    pub(super) fn skip(&mut self, len: u64) -> Result<(), FramingLost> {
        match self.place {
            Place::Data(left) if left >= len => self.pass_data(left, len),
            _ => return Err(FramingLost),
        }
        Ok(())
    }

    fn pass_data(&mut self, left: u64, passed: u64) {
        self.data_len = self.data_len.saturating_add(passed);
        self.place = match left.saturating_sub(passed) {
            0 => Place::DataEnd,
            left => Place::Data(left),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data and end are the same wherever the stream is cut, with extensions and trailers.
    #[test]
    fn chunks_are_read_wherever_they_are_cut() {
        let stream = b"5;a=\"b\"\r\nhello\r\n0A\r\n, world...\r\n0\r\nSum: 1\r\n\r\nGET ";
        for cut in 0..=stream.len() {
            let (mut chunks, mut beginning) = (Chunks::new(), Beginning::default());
            let mut taken = chunks.push(&stream[..cut], &mut beginning).expect("well-formed");
            taken += chunks.push(&stream[taken..], &mut beginning).expect("well-formed");
            assert_eq!(&stream[taken..], b"GET ", "cut at {cut}");
            assert!(chunks.is_whole());
            assert_eq!((beginning.bytes(), chunks.data_len()), (&b"hello, world..."[..], 15));
        }
    }

    /// A hole within data is counted, one over its end loses the framing.
    #[test]
    fn holes_are_passed_inside_of_data_alone() {
        let (mut chunks, mut beginning) = (Chunks::new(), Beginning::default());
        assert_eq!(chunks.push(b"10\r\nab", &mut beginning), Ok(6));
        assert_eq!(chunks.skip(14), Ok(()));
        assert_eq!(chunks.push(b"\r\n0\r\n\r\n", &mut beginning), Ok(7));
        assert!(chunks.is_whole());
        let mut chunks = Chunks::new();
        assert_eq!(chunks.push(b"10\r\nab", &mut beginning), Ok(6));
        assert_eq!(chunks.skip(15), Err(FramingLost));
    }

    /// Sizes that are none, or that no number holds, lose the framing.
    #[test]
    fn nonsense_loses_the_framing() {
        for stream in ["\r\n", "x\r\n", "11112222333344445\r\n", "1\r\nab"] {
            assert_eq!(
                Chunks::new().push(stream.as_bytes(), &mut Beginning::default()),
                Err(FramingLost),
                "{stream}"
            );
        }
    }
}
