//! The figure that stands for all rounds of a benchmark.

/// The one in the middle; of an even number the upper of the two.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
