//! What theory says. With FIFO cleaning and uniform overwrites, a share `fill` of the space live leaves `u` of a victim live, where `fill = (u - 1) / ln u`, and every byte is written `1 / (1 - u)` times (2.69 at 80 %, 5.18 at 90 %).
//! With rates known, blocks of like rate together, the space is best divided so that more of it would save as much in every class.

/// Write amplification of FIFO cleaning.
pub fn fifo(fill: f64) -> f64 {
    let u = root(|u| (u - 1.0) / u.ln() - fill);
    1.0 / (1.0 - u)
}

/// The least that separation into `classes` can reach when ranks follow Zipf's law with this exponent.
pub fn separated(blocks: usize, exponent: f64, fill: f64, classes: usize) -> f64 {
    let mut edges: Vec<usize> =
        (0..=classes).map(|i| (blocks as f64).powf(i as f64 / classes as f64) as usize).collect();
    edges[0] = 0;
    edges[classes] = blocks;
    edges.dedup();
    let of: Vec<(f64, f64)> = edges
        .windows(2)
        .map(|w| {
            ((w[0]..w[1]).map(|r| ((r + 1) as f64).powf(-exponent)).sum::<f64>(), (w[1] - w[0]) as f64 / blocks as f64)
        })
        .collect();
    let total: f64 = of.iter().map(|(writes, _)| writes).sum();
    let of: Vec<(f64, f64)> = of.iter().map(|(writes, share)| (writes / total, *share)).collect();
    let live = |price: f64| -> Vec<f64> {
        of.iter()
            .map(|(writes, share)| {
                root(|u| writes / (1.0 - u).powi(2) + price * share * ((u - 1.0) / u - u.ln()) / (u - 1.0).powi(2))
            })
            .collect()
    };
    let space = |us: &[f64]| -> f64 { of.iter().zip(us).map(|((_, share), u)| share * u.ln() / (u - 1.0)).sum() };
    let (mut low, mut high) = (1e-9_f64, 1e9_f64);
    for _ in 0..60 {
        let price = (low * high).sqrt();
        if space(&live(price)) > 1.0 / fill { low = price } else { high = price }
    }
    of.iter().zip(live(low)).map(|((writes, _), u)| writes / (1.0 - u)).sum()
}

/// Where a function that rises on (0, 1) is zero.
fn root(f: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (1e-12, 1.0 - 1e-9);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if f(middle) < 0.0 { low = middle } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_values() {
        assert!((fifo(0.8) - 2.69).abs() < 0.01 && (fifo(0.9) - 5.18).abs() < 0.01);
        assert!((separated(100_000, 0.0, 0.8, 8) - fifo(0.8)).abs() < 0.01);
        let four = separated(500_000, 0.8, 0.8, 4);
        assert!((four - 2.08).abs() < 0.02, "{four}");
    }
}
