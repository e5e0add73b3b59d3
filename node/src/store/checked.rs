//! Files with a checksum: CRC-32 of the body (4 bytes, little-endian), then the body.

use std::io;
use std::path::Path;

use crate::frames::replace;

/// Replaces the file, atomically.
pub(crate) fn write(path: &Path, body: Vec<u8>) -> io::Result<()> {
    let mut bytes = crc32fast::hash(&body).to_le_bytes().to_vec();
    bytes.extend(body);
    replace(path, &bytes)?;
    Ok(())
}

/// The body, if its checksum is right.
pub(crate) fn body(bytes: &[u8]) -> Option<&[u8]> {
    let (sum, body) = bytes.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*sum) == crc32fast::hash(body)).then_some(body)
}
