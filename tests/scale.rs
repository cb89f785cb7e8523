//! Nothing is 32 bits wide: devices and extents beyond 2^32 blocks. Takes 1.1 GiB of memory; set
//! `FREEMAP_SCALE=36` for the largest device there is, which takes 9 GiB.

use freemap::{AllocError, Allocator, Extent, Request};

#[test]
fn extents_longer_than_two_to_the_32() {
    let order: u32 =
        std::env::var("FREEMAP_SCALE").ok().and_then(|order| order.parse().ok()).unwrap_or(33);
    let blocks = (1u64 << order) - 77;
    let allocator = Allocator::builder(blocks).block_size(1 << 20).build().unwrap();
    assert_eq!(allocator.free_blocks(), blocks);

    let long = (1 << 32) + 12_345;
    let extent = allocator.allocate(long).unwrap();
    assert_eq!(extent.len, long);
    assert_eq!(allocator.free_blocks(), blocks - long);
    assert_eq!(
        allocator.allocate(blocks - long + 1),
        Err(AllocError::NoSpace { requested: blocks - long + 1, free: blocks - long })
    );
    let last = allocator.allocate_with(&Request::new(1).near(blocks - 1)).unwrap();
    assert_eq!(last[0], Extent::new(blocks - 1, 1));
    assert_eq!(allocator.survey().finish().blocks(), blocks - long - 1);

    allocator.free(extent).unwrap();
    allocator.free(last[0]).unwrap();
    assert_eq!(allocator.free_extents().collect::<Vec<_>>(), [Extent::new(0, blocks)]);
    assert_eq!(allocator.survey().finish().largest(), blocks);
    assert!(allocator.verify().is_clean());
}
