//! The records of the metadata log, and what they add up to.
//!
//! ```text
//! file     magic (8), records
//! record   CRC32C of the rest (4), bytes of the rest behind this field (4), LSN (8), kind (1),
//!          id (8), version (8), for each extent: start (8), blocks (8)
//! ```
//! A delta has its own bytes instead of extents.
//!
//! All numbers are little-endian. Records stand in the order of their LSNs, without gaps.

use std::sync::Arc;

use freemap::{Extent, Lsn};

use super::Failure;
use super::durable::Contents;
use super::object::{Change, Object};

/// What a metadata log begins with.
pub const MAGIC: [u8; 8] = *b"fmengin1";

/// Bytes of the checksum and the length, and of the fields before the extents.
const FRAME: usize = 8;
const FIXED: usize = 25;

/// What a transaction did, as far as it is not in the space-map log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// These blocks were in use before the store was created.
    Foreign(Vec<Extent>),
    Changed(Change),
    /// All LSNs between the record before and this one were taken back.
    TakenBack,
    /// What the transaction of the record that follows, which has the same LSN, allocated and freed: where
    /// the space-map log does not carry it.
    Delta(Vec<u8>),
}

impl Record {
    pub fn encode(&self, lsn: Lsn) -> Vec<u8> {
        let none: &[Extent] = &[];
        let delta: &[u8] = if let Self::Delta(delta) = self { delta } else { &[] };
        let (kind, id, version, extents) = match self {
            Self::Foreign(extents) => (1u8, 0, 0, extents.as_slice()),
            Self::Changed(Change::Put(object)) => {
                (2, object.id, object.version, object.extents.as_slice())
            }
            Self::Changed(Change::Delete { id, version }) => (3, *id, *version, none),
            Self::TakenBack => (4, 0, 0, none),
            Self::Delta(_) => (5, 0, 0, none),
        };
        let len = FIXED + 16 * extents.len() + delta.len();
        let mut rest = Vec::with_capacity(FRAME + len);
        rest.extend_from_slice(&(len as u32).to_le_bytes());
        rest.extend_from_slice(&lsn.0.to_le_bytes());
        rest.push(kind);
        rest.extend_from_slice(&id.to_le_bytes());
        rest.extend_from_slice(&version.to_le_bytes());
        for extent in extents {
            rest.extend_from_slice(&extent.start.to_le_bytes());
            rest.extend_from_slice(&extent.len.to_le_bytes());
        }
        rest.extend_from_slice(delta);
        let mut record = crc32c::crc32c(&rest).to_le_bytes().to_vec();
        record.append(&mut rest);
        record
    }
}

/// The record at the beginning of `bytes` and its length, if there is a whole one.
fn decode(bytes: &[u8]) -> Option<(Lsn, Record, usize)> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let end = FRAME.checked_add(word(4)? as usize)?;
    let rest = bytes.get(4..end)?;
    let list = bytes.get(FRAME + FIXED..end)?;
    if crc32c::crc32c(rest) != word(0)? {
        return None;
    }
    let kind = bytes[FRAME + 8];
    if kind == 5 {
        return Some((Lsn(long(FRAME)?), Record::Delta(list.to_vec()), end));
    }
    if !list.len().is_multiple_of(16) {
        return None;
    }
    let extents = || {
        let starts = (FRAME + FIXED..end).step_by(16);
        starts.map(|at| Some(Extent::new(long(at)?, long(at + 8)?))).collect::<Option<Vec<_>>>()
    };
    let (id, version) = (long(FRAME + 9)?, long(FRAME + 17)?);
    let record = match kind {
        1 => Record::Foreign(extents()?),
        2 => Record::Changed(Change::Put(Object { id, version, extents: extents()? })),
        3 => Record::Changed(Change::Delete { id, version }),
        4 => Record::TakenBack,
        _ => return None,
    };
    Some((Lsn(long(FRAME)?), record, end))
}

/// What the records of a metadata log add up to.
#[derive(Debug, Default)]
pub struct Catalog {
    pub contents: Contents,
    /// The last transaction.
    pub last: Lsn,
    /// Bytes of whole transactions, with the magic.
    pub whole: usize,
    /// The deltas that it carries.
    pub deltas: Vec<(u64, Vec<u8>)>,
}

impl Catalog {
    /// Reads a metadata log as far as its records are whole. What follows was never acknowledged:
    /// groups of records are flushed one after the other, so only the last can be torn.
    pub fn read(bytes: &[u8]) -> Result<Self, Failure> {
        if !bytes.starts_with(&MAGIC) {
            return Err("no metadata log: wrong magic".into());
        }
        let mut catalog = Self { whole: MAGIC.len(), ..Self::default() };
        let (mut at, mut carried) = (catalog.whole, None);
        while let Some((lsn, record, len)) = decode(&bytes[at..]) {
            at += len;
            let expected = catalog.last.0 + 1;
            if lsn.0 != expected && !(record == Record::TakenBack && lsn.0 > expected) {
                let at = at - len;
                return Err(format!("byte {at}: transaction {lsn}, not {expected}").into());
            }
            if let Record::Delta(delta) = record {
                carried = Some((lsn.0, delta));
                continue;
            }
            catalog.contents.apply(record);
            catalog.deltas.extend(carried.take());
            catalog.last = lsn;
            catalog.whole = at;
        }
        Ok(catalog)
    }
}

impl Contents {
    fn apply(&mut self, record: Record) {
        match record {
            Record::Foreign(extents) => self.foreign.extend(extents),
            Record::Changed(Change::Put(object)) => {
                self.next_id = self.next_id.max(object.id.saturating_add(1));
                self.objects.insert(object.id, Arc::new(object));
            }
            Record::Changed(Change::Delete { id, .. }) => {
                self.objects.remove(&id);
            }
            Record::TakenBack | Record::Delta(_) => {}
        }
    }
}
