//! Lists in pages: `limit` and `cursor`, `{"items": […], "next_cursor": null}`.

use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::{input::invalid, problem::Problem};
use crate::fields::Fields;

/// Items on a page where the request does not say.
const LIMIT_DEFAULT: usize = 100;

/// Items on a page at most.
const LIMIT_MAX: usize = 500;

/// Which page of a list.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// Items on the page.
    #[param(value_type = Option<usize>, minimum = 1, maximum = 500, default = 100)]
    pub(super) limit: usize,
    /// The `next_cursor` of the page before.
    pub(super) cursor: Option<String>,
}

impl PageQuery {
    /// Reads `limit` and `cursor`.
    pub(super) fn read(fields: &mut Fields<'_>) -> Self {
        let limit = fields.parse("limit", |text| {
            let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
            limit.ok_or_else(|| format!("expected a whole number from 1 to {LIMIT_MAX}"))
        });
        let cursor = fields.parse("cursor", |text| Ok::<_, String>(text.to_owned()));
        Self { limit: limit.unwrap_or(LIMIT_DEFAULT), cursor }
    }
}

/// The cursor is none that this list gave.
pub(super) fn cursor_unknown() -> Problem {
    invalid("cursor", "not a next_cursor of this list, or what it stood for is gone")
}

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// In the order of the list.
    pub(super) items: Vec<T>,
    /// What to send as `cursor` for the next page; `null` on the last one.
    #[schema(required)]
    pub(super) next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// The page of `all` that was asked for; `key` is what tells one item from all others, and the
    /// cursor is the key of the last item of the page before.
    pub(super) fn of(
        all: Vec<T>,
        key: impl Fn(&T) -> &str,
        query: PageQuery,
    ) -> Result<Self, Problem> {
        let mut rest = all.into_iter();
        if let Some(cursor) = query.cursor {
            rest.find(|item| key(item) == cursor).ok_or_else(cursor_unknown)?;
        }
        let items: Vec<_> = rest.by_ref().take(query.limit).collect();
        let more = rest.next().is_some();
        let next_cursor = items.last().filter(|_| more).map(|item| key(item).to_owned());
        Ok(Self { items, next_cursor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(limit: usize, cursor: Option<&str>) -> Result<Page<String>, Problem> {
        let all = (0..250).map(|number| format!("item-{number}")).collect();
        Page::of(all, |item| item, PageQuery { limit, cursor: cursor.map(str::to_owned) })
    }

    #[test]
    fn pages_together_are_the_list() {
        let mut seen = Vec::new();
        let mut cursor: Option<String> = None;
        let mut sizes = Vec::new();
        loop {
            let page = page(LIMIT_DEFAULT, cursor.as_deref()).unwrap();
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
        let last = page(250, None).unwrap();
        assert_eq!((last.items.len(), last.next_cursor), (250, None));
        let first = page(249, None).unwrap();
        assert_eq!(first.next_cursor.as_deref(), Some("item-248"));
    }

    #[test]
    fn a_cursor_of_no_item_is_refused() {
        assert!(page(1, Some("item-250")).is_err());
        assert!(page(1, Some("")).is_err());
    }
}
