//! Lists that come in pages.

use super::Failure;

/// The most that is asked for at once: as much as the lists give.
const LARGEST: usize = 1_000;

/// Asks for page after page, until there is no more or `limit` were told, and tells each item as its page comes; answers how many that
/// were. `page` is given the size of a page and the token where it begins, and answers its items and the next token.
pub async fn each<T>(
    limit: usize,
    mut page: impl AsyncFnMut(i32, String) -> Result<(Vec<T>, String), Failure>,
    mut tell: impl FnMut(T) -> Result<(), Failure>,
) -> Result<usize, Failure> {
    let (mut told, mut token) = (0, String::new());
    while told < limit {
        let left = limit.saturating_sub(told);
        let size = i32::try_from(left.min(LARGEST)).unwrap_or(i32::MAX);
        let (items, next) = page(size, token).await?;
        for item in items.into_iter().take(left) {
            tell(item)?;
            told += 1;
        }
        if next.is_empty() {
            break;
        }
        token = next;
    }
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten items in pages of at most four.
    async fn ten(size: i32, token: String) -> Result<(Vec<usize>, String), Failure> {
        let begin: usize = token.parse().unwrap_or(0);
        let end = (begin + usize::try_from(size).unwrap().min(4)).min(10);
        Ok(((begin..end).collect(), if end == 10 { String::new() } else { end.to_string() }))
    }

    #[tokio::test]
    async fn all_come_in_order_and_no_more_than_asked_for() {
        for limit in [0, 1, 4, 5, 10, 11, usize::MAX] {
            let mut told = Vec::new();
            let keep = |item| {
                told.push(item);
                Ok(())
            };
            let number = each(limit, ten, keep).await.unwrap();
            assert_eq!(told, (0..limit.min(10)).collect::<Vec<_>>());
            assert_eq!(number, told.len());
        }
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_ends_it() {
        let mut told = 0;
        let tell = |_| {
            told += 1;
            if told == 3 { Err(Failure::new("gone")) } else { Ok(()) }
        };
        assert!(each(usize::MAX, ten, tell).await.is_err());
        assert_eq!(told, 3);
    }
}
