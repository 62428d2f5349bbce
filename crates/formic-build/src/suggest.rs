//! "Did you mean …?": the nearest name by edit distance. The same as in `formic-settings`, but for words of other lengths;
//! a build script does not compile that crate for it.

/// The candidate nearest to `name`, if near enough that a slip of the keyboard explains it.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .filter(|candidate| *candidate != name)
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Letters to insert, delete, replace or swap with their neighbour, without regard to case.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().flat_map(char::to_lowercase).collect();
    let b: Vec<char> = b.chars().flat_map(char::to_lowercase).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replaced = last[j] + usize::from(a[i] != b[j]);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_near_and_other_words_are_not() {
        let names = ["HelloRequest", "HelloResponse", "Item"];
        assert_eq!(nearest("HelloReqest", names), Some("HelloRequest"));
        assert_eq!(nearest("helloresponse", names), Some("HelloResponse"));
        assert_eq!(nearest("Itm", names), Some("Item"));
        assert_eq!(nearest("Itme", names), Some("Item"), "two letters swapped are one slip");
        assert_eq!(nearest("Order", names), None);
        assert_eq!(nearest("x", []), None);
    }
}
