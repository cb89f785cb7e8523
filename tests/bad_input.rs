//! Whatever a caller passes: a typed error that says what and where, and nothing changed.

use freemap::{
    AllocError, Allocator, ConfigError, Extent, FreeError, MAX_BLOCKS, MarkError, RangeError,
    Request, RequestError,
};

const BLOCKS: u64 = 1000;

fn refused(request: Request) -> RequestError {
    let allocator = Allocator::new(BLOCKS).unwrap();
    let mut handle = allocator.handle();
    let Err(AllocError::InvalidRequest(error)) = allocator.allocate_with(&request) else {
        panic!("{request:?} was not refused");
    };
    assert_eq!(handle.allocate_with(&request), Err(AllocError::InvalidRequest(error.clone())));
    assert_eq!(allocator.free_blocks(), BLOCKS);
    error
}

#[test]
fn requests() {
    assert_eq!(refused(Request::new(0)), RequestError::ZeroLength);
    assert_eq!(refused(Request::new(1001)), RequestError::TooLong { len: 1001, blocks: BLOCKS });
    assert_eq!(
        refused(Request::new(u64::MAX).scattered()),
        RequestError::TooLong { len: u64::MAX, blocks: BLOCKS }
    );
    assert_eq!(refused(Request::new(1).align(0)), RequestError::Align { align: 0, blocks: BLOCKS });
    assert_eq!(
        refused(Request::new(1).align(u64::MAX)),
        RequestError::Align { align: u64::MAX, blocks: BLOCKS }
    );
    assert_eq!(
        refused(Request::new(1).near(BLOCKS)),
        RequestError::NearOutside { block: BLOCKS, blocks: BLOCKS }
    );
    let bounds = Request::new(9).scattered().min_extent(5).max_extent(4);
    assert_eq!(refused(bounds), RequestError::ExtentBounds { min: 5, max: 4 });
    let zero = Request::new(9).scattered().min_extent(0).max_extent(0);
    assert_eq!(refused(zero), RequestError::ExtentBounds { min: 0, max: 0 });
    let odd = Request::new(9).scattered().min_extent(5).max_extent(8);
    assert_eq!(refused(odd), RequestError::Indivisible { len: 9, min: 5, max: 8 });
}

#[test]
fn devices() {
    assert_eq!(Allocator::new(0).unwrap_err(), ConfigError::NoBlocks);
    for blocks in [MAX_BLOCKS + 1, u64::MAX] {
        let error = ConfigError::TooManyBlocks { blocks, max: MAX_BLOCKS };
        assert_eq!(Allocator::new(blocks).unwrap_err(), error);
    }
    for bytes in [0, 1, 256, 513, 4095, 1 << 21, u32::MAX] {
        let error = Allocator::builder(1).block_size(bytes).build().unwrap_err();
        assert_eq!(error, ConfigError::BlockSize { bytes });
    }
    for (blocks, words, expected) in [(64, 2, 1), (65, 1, 2), (1, 0, 1)] {
        let error = Allocator::from_bitmap(blocks, &vec![0; words]).unwrap_err();
        assert_eq!(error, ConfigError::BitmapLength { blocks, expected, found: words as u64 });
    }
    for shards in [0, 1, usize::MAX] {
        assert_eq!(Allocator::builder(5).shards(shards).build().unwrap().shards(), 1);
    }
}

#[test]
fn extents() {
    let allocator = Allocator::new(BLOCKS).unwrap();
    let held = allocator.allocate(10).unwrap();
    let cases = [
        (Extent::new(5, 0), RangeError::Empty { start: 5 }),
        (Extent::new(u64::MAX, 0), RangeError::Empty { start: u64::MAX }),
        (Extent::new(999, 2), RangeError::OutOfRange { block: 1000, blocks: BLOCKS }),
        (Extent::new(2000, 2), RangeError::OutOfRange { block: 2000, blocks: BLOCKS }),
        (Extent::new(1, u64::MAX), RangeError::OutOfRange { block: 1000, blocks: BLOCKS }),
        (
            Extent::new(u64::MAX, u64::MAX),
            RangeError::OutOfRange { block: u64::MAX, blocks: BLOCKS },
        ),
    ];
    for (extent, error) in cases {
        assert_eq!(allocator.free(extent), Err(FreeError::Range(error)));
        assert_eq!(allocator.mark_free(extent), Err(FreeError::Range(error)));
        assert_eq!(allocator.mark_allocated(extent), Err(MarkError::Range(error)));
        assert_eq!(allocator.is_free(extent), Err(error));
        assert_eq!(allocator.is_allocated(extent), Err(error));
        let _ = (extent.contains(7), extent.overlaps(&held), extent.end(), extent.to_string());
    }
    // Freeing more than is held names the first block that is free, and frees none.
    let beyond = Extent::new(held.start, 20);
    assert_eq!(allocator.free(beyond), Err(FreeError::DoubleFree { block: held.start + 10 }));
    assert_eq!(allocator.is_allocated(held), Ok(true));
    assert_eq!(
        allocator.mark_allocated(Extent::new(held.start, 700)),
        Err(MarkError::AlreadyAllocated { block: held.start })
    );
    assert_eq!(allocator.next_free(BLOCKS), None);
    assert_eq!(allocator.next_free(u64::MAX), None);
    assert_eq!(allocator.free_extents_from(u64::MAX).next(), None);
    assert_eq!(allocator.free_blocks(), BLOCKS - 10);
}
