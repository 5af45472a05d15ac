//! Lists in pages: `limit` and `cursor`, `{"items": […], "next_cursor": null}`.

use axum::extract::{Query, rejection::QueryRejection};
use serde::{Deserialize, Serialize};

use super::problem::Problem;

/// Items on a page where the request does not say.
const LIMIT_DEFAULT: usize = 100;

/// Items on a page at most.
pub(super) const LIMIT_MAX: usize = 500;

/// The query of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    /// Items on the page, 1 to 500. Default 100.
    limit: Option<usize>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// The query as axum hands it to a route.
pub(super) type PageRequest = Result<Query<PageQuery>, QueryRejection>;

/// One page of a list.
#[derive(Debug, Serialize)]
pub(super) struct Page<T> {
    items: Vec<T>,
    next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// The page of `all` that was asked for; `key` is what tells one item from all others, and the
    /// cursor is the key of the last item of the page before.
    pub(super) fn of(
        all: Vec<T>,
        key: impl Fn(&T) -> &str,
        request: PageRequest,
    ) -> Result<Self, Problem> {
        let invalid = Problem::PageInvalid;
        let Query(query) = request.map_err(|_| invalid)?;
        let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
        if limit == 0 || limit > LIMIT_MAX {
            return Err(invalid);
        }
        let mut rest = all.into_iter();
        if let Some(cursor) = query.cursor {
            rest.find(|item| key(item) == cursor).ok_or(invalid)?;
        }
        let items: Vec<_> = rest.by_ref().take(limit).collect();
        let more = rest.next().is_some();
        let next_cursor = items.last().filter(|_| more).map(|item| key(item).to_owned());
        Ok(Self { items, next_cursor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(limit: Option<usize>, cursor: Option<&str>) -> Result<Page<String>, Problem> {
        let all = (0..250).map(|number| format!("item-{number}")).collect();
        let query = PageQuery { limit, cursor: cursor.map(str::to_owned) };
        Page::of(all, |item| item, Ok(Query(query)))
    }

    #[test]
    fn pages_together_are_the_list() {
        let mut seen = Vec::new();
        let mut cursor: Option<String> = None;
        let mut sizes = Vec::new();
        loop {
            let page = page(None, cursor.as_deref()).unwrap();
            sizes.push(page.items.len());
            seen.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(sizes, [100, 100, 50]);
        assert_eq!(seen, (0..250).map(|number| format!("item-{number}")).collect::<Vec<_>>());
    }

    #[test]
    fn the_last_page_has_no_cursor_even_when_it_is_full() {
        let last = page(Some(250), None).unwrap();
        assert_eq!((last.items.len(), last.next_cursor), (250, None));
        let first = page(Some(249), None).unwrap();
        assert_eq!(first.next_cursor.as_deref(), Some("item-248"));
    }

    #[test]
    fn a_limit_beyond_the_largest_or_a_cursor_of_no_item_is_refused() {
        assert!(page(Some(500), None).is_ok());
        assert!(page(Some(501), None).is_err());
        assert!(page(Some(0), None).is_err());
        assert!(page(None, Some("item-250")).is_err());
        assert!(page(None, Some("")).is_err());
    }
}
