//! How bodies are compressed, and what their beginning says without it.

use std::io::Read;

use flate2::read::{DeflateDecoder, GzDecoder, ZlibDecoder};

use super::beginning::MAX_BEGINNING_BYTES;

/// A content coding (RFC 9110, section 8.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Encoding {
    /// None.
    #[default]
    Identity,
    /// `gzip`, `x-gzip`.
    Gzip,
    /// `deflate`: meant to be zlib's format, often the bare stream.
    Deflate,
    /// One that is not undone here.
    Other,
}

impl Encoding {
    /// That of the header field `Content-Encoding: name`; empty stands for none.
    pub(super) fn named(name: &[u8]) -> Self {
        match name.to_ascii_lowercase().as_slice() {
            b"" | b"identity" => Encoding::Identity,
            b"gzip" | b"x-gzip" => Encoding::Gzip,
            b"deflate" => Encoding::Deflate,
            _ => Encoding::Other,
        }
    }

    /// The beginning of the body whose beginning is sent as `bytes`, at most
    /// [`MAX_BEGINNING_BYTES`]. Empty if nothing can be made of it.
    pub(super) fn decode(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Encoding::Identity => bytes.get(..MAX_BEGINNING_BYTES).unwrap_or(bytes).to_vec(),
            Encoding::Gzip => read_beginning(GzDecoder::new(bytes)),
            Encoding::Deflate => {
                let decoded = read_beginning(ZlibDecoder::new(bytes));
                if decoded.is_empty() { read_beginning(DeflateDecoder::new(bytes)) } else { decoded }
            }
            Encoding::Other => Vec::new(),
        }
    }
}

/// What `decoder` yields before its input ends or turns out wrong, at most [`MAX_BEGINNING_BYTES`].
/// Input that is cut yields all that it determines.
fn read_beginning(mut decoder: impl Read) -> Vec<u8> {
    let mut decoded = vec![0; MAX_BEGINNING_BYTES];
    let mut len = 0;
    while let Some(room) = decoded.get_mut(len..).filter(|room| !room.is_empty()) {
        match decoder.read(room) {
            Ok(0) | Err(_) => break,
            Ok(more) => len += more,
        }
    }
    decoded.truncate(len);
    decoded
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    /// A text whose compressed form is long.
    fn long_text() -> Vec<u8> {
        (0..9000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_string().into_bytes()).collect()
    }

    /// Of a stream that is cut, the beginning comes out, and never more than the limit.
    #[test]
    fn beginning_of_a_cut_stream_is_read() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&long_text()).expect("memory takes all");
        let gzip = gzip.finish().expect("memory takes all");
        let some = Encoding::Gzip.decode(&gzip[..500]);
        assert!(some.len() > 200 && long_text().starts_with(&some), "{}", some.len());
        assert_eq!(Encoding::Gzip.decode(&gzip), long_text()[..MAX_BEGINNING_BYTES]);
    }

    /// Both forms that are sent as `deflate` are read.
    #[test]
    fn deflate_is_read_with_and_without_zlib_header() {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(b"{\"id\":1}").expect("memory takes all");
        assert_eq!(Encoding::Deflate.decode(&zlib.finish().expect("memory takes all")), b"{\"id\":1}");
        let mut bare = DeflateEncoder::new(Vec::new(), Compression::default());
        bare.write_all(b"{\"id\":1}").expect("memory takes all");
        assert_eq!(Encoding::Deflate.decode(&bare.finish().expect("memory takes all")), b"{\"id\":1}");
    }

    /// What is not compressed as it says yields nothing.
    #[test]
    fn nonsense_yields_nothing() {
        assert!(Encoding::Gzip.decode(b"{\"id\":1}").is_empty());
        assert!(Encoding::named(b"br").decode(b"{}").is_empty());
        assert_eq!(Encoding::named(b"GZIP"), Encoding::Gzip);
    }
}
