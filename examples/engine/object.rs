//! What an object is, what can become of it, and its bytes in the data file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use freemap::Extent;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub id: u64,
    /// 0 when it is put, one more with every overwrite.
    pub version: u64,
    pub extents: Vec<Extent>,
}

/// What a transaction does to the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The object is this now.
    Put(Object),
    Delete {
        id: u64,
        version: u64,
    },
}

impl Change {
    /// Of the object that it changes.
    pub fn id(&self) -> u64 {
        match self {
            Self::Put(object) => object.id,
            Self::Delete { id, .. } => *id,
        }
    }
}

impl Object {
    /// Whether a block of it lies in `extent`.
    pub fn overlaps(&self, extent: &Extent) -> bool {
        self.extents.iter().any(|own| own.overlaps(extent))
    }

    /// Writes the object's bytes, which follow from its name and place.
    pub fn write(&self, data: &File, block_size: u32, buffer: &mut Vec<u8>) -> io::Result<()> {
        for extent in &self.extents {
            buffer.clear();
            for block in extent.start..extent.start + extent.len {
                let stamp = self.stamp(block);
                for _ in 0..block_size as usize / stamp.len() {
                    buffer.extend_from_slice(&stamp);
                }
            }
            data.write_all_at(buffer, extent.start * u64::from(block_size))?;
        }
        Ok(())
    }

    /// Reads the object back and counts the blocks that hold anything but its bytes.
    pub fn corrupt_blocks(
        &self,
        data: &File,
        block_size: u32,
        buffer: &mut Vec<u8>,
    ) -> io::Result<u64> {
        let block_size = block_size as usize;
        let mut corrupt = 0;
        for extent in &self.extents {
            buffer.resize(extent.len as usize * block_size, 0);
            data.read_exact_at(buffer, extent.start * block_size as u64)?;
            for (block, bytes) in (extent.start..).zip(buffer.chunks_exact(block_size)) {
                let right = self.stamp(block);
                corrupt += u64::from(bytes.chunks_exact(32).any(|part| part != right));
            }
        }
        Ok(corrupt)
    }

    /// What every 32 bytes of `block` hold while it belongs to this object.
    fn stamp(&self, block: u64) -> [u8; 32] {
        let mut stamp = *b"freemap!................________";
        stamp[8..16].copy_from_slice(&self.id.to_le_bytes());
        stamp[16..24].copy_from_slice(&self.version.to_le_bytes());
        stamp[24..].copy_from_slice(&block.to_le_bytes());
        stamp
    }
}
