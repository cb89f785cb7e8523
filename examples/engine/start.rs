//! The state that a run begins with: empty, or the free space of a real file system.

use std::path::Path;
use std::process::Command;

use freemap::{Allocator, Extent};

use super::{Failure, Options};

/// Where the store begins.
pub struct Start {
    pub allocator: Allocator,
    /// What the start came from, for the report.
    pub origin: String,
}

impl Start {
    /// The blocks that are in use before there is any object, ascending.
    pub fn foreign(&self) -> Vec<Extent> {
        let mut foreign = Vec::new();
        let mut at = 0;
        let behind = Extent::new(self.allocator.blocks(), 0);
        for free in self.allocator.free_extents().chain([behind]) {
            if free.start > at {
                foreign.push(Extent::new(at, free.start - at));
            }
            at = free.start + free.len;
        }
        foreign
    }
}

/// Loads what the options ask for.
pub fn load(options: &Options) -> Result<Start, Failure> {
    let (allocator, origin) = match (&options.ext4, &options.free_list) {
        (Some(image), _) => (ext4(image)?, format!("ext4 image {}", image.display())),
        (_, Some(list)) => (free_list(list)?, format!("free list {}", list.display())),
        _ => (Allocator::new(options.blocks.unwrap_or(1 << 16))?, "an empty device".to_string()),
    };
    Ok(Start { allocator, origin })
}

fn from_free(blocks: u64, block_size: u32, free: &[Extent]) -> Result<Allocator, Failure> {
    let allocator = Allocator::builder(blocks).block_size(block_size).build_allocated()?;
    for &extent in free {
        allocator.mark_free(extent)?;
    }
    Ok(allocator)
}

/// Lines of `start,len` in 4 KiB blocks. The device ends with the group of 32768 blocks that the
/// last free extent lies in.
fn free_list(path: &Path) -> Result<Allocator, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut free = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let parsed = line.trim().split_once(',').and_then(|(start, len)| {
            Some(Extent::new(start.trim().parse().ok()?, len.trim().parse().ok()?))
        });
        match parsed {
            Some(extent) if extent.end().is_some() => free.push(extent),
            _ if line.trim().is_empty() => {}
            _ => return Err(format!("{}:{}: not `start,len`", path.display(), number + 1).into()),
        }
    }
    let end = free.iter().filter_map(Extent::end).max().ok_or("the free list is empty")?;
    from_free(end.next_multiple_of(32768), 4096, &free)
}

/// The free blocks of an ext4 image, as `dumpe2fs` of e2fsprogs prints them.
fn ext4(image: &Path) -> Result<Allocator, Failure> {
    let output = ["dumpe2fs", "/sbin/dumpe2fs", "/usr/sbin/dumpe2fs"]
        .iter()
        .find_map(|program| Command::new(program).arg(image).output().ok())
        .ok_or("dumpe2fs (e2fsprogs) is not installed")?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_string().into());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let header = |name: &str| -> Result<u64, Failure> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        Ok(line.ok_or(format!("dumpe2fs printed no `{name}`"))?.trim().parse()?)
    };
    let blocks = header("Block count:")?;
    let block_size = u32::try_from(header("Block size:")?)?;
    let mut free = Vec::new();
    for ranges in text.lines().filter_map(|line| line.strip_prefix("  Free blocks: ")) {
        for range in ranges.split(", ").filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (u64, u64) = (first.trim().parse()?, last.trim().parse()?);
            free.push(Extent::new(first, last + 1 - first));
        }
    }
    let allocator = from_free(blocks, block_size, &free)?;
    let told = header("Free blocks:")?;
    if allocator.free_blocks() != told {
        let loaded = allocator.free_blocks();
        return Err(format!("loaded {loaded} free blocks, the superblock says {told}").into());
    }
    Ok(allocator)
}
