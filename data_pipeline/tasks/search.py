"""What people type: how well an item fits a query, and which item or query fits best.

Judged queries are divided by phase as a whole: no query that is asked about was trained on.
"""

from collections.abc import Sequence
from typing import ClassVar, Final

from data_pipeline.tasks.base import LETTERS, History, Kind, Rows, Task
from data_pipeline.tasks.cues import QUERY
from data_pipeline.tasks.needs_tables import LEFT, TAKEN
from data_pipeline.tasks.pointwise import CANDIDATE
from data_pipeline.tasks.view import View
from data_pipeline.tree import Question

CANDIDATES: Final = 10
FEWEST_CANDIDATES: Final = 3
"""A list of two would be a pair."""
_TRIES: Final = 4
ESCI: Final = {"exact": "E", "substitute": "S", "complement": "C", "irrelevant": "I"}
"""Published label -> the letter that answers it."""


class _Search(Task):
    """Asks about one query."""

    family = "search"
    constants: ClassVar[tuple[str, ...]] = (QUERY, CANDIDATE)

    def _typed(self, view: View, query: int) -> tuple[int, ...]:
        return view.constant(QUERY), view.query_line(query)

    def _about(self, view: View, query: int, item: int, label: int, value: float) -> Question:
        return Question(
            label=label,
            pieces=(*self._typed(view, query), view.constant(CANDIDATE), view.line(item)),
            candidates=(item,),
            n_choices=len(self.labels),
            value=value,
            query=query,
        )


class _Judgement(_Search):
    """Asks about one judgement."""

    history: ClassVar[History] = "item"
    baselines = ("majority", "popularity", "word_overlap")

    def subjects(self, view: View) -> Rows:
        return view.shelf.judged.rows(view.phase)

    def _judged(self, view: View, subject: int, label: int) -> Question:
        table = view.shelf.judged.table
        query, item = int(table.query_J[subject]), int(table.item_J[subject])
        return self._about(view, query, item, label, float(table.grade_J[subject]))


class SearchRelevance(_Judgement):
    """T30: exact, substitute, complement or irrelevant, as people judged it (ESCI)."""

    name = "search_relevance"
    code = "T30"
    labels = tuple(ESCI.values())
    metric = "macro_f1"
    needs = frozenset(f"judgements.{label}" for label in ESCI)
    instructions = (
        "Is the {item} an exact match (E), a substitute (S), a complement (C) or irrelevant (I)?",
        "How does the candidate fit the query: E exact, S substitute, C complement, I irrelevant?",
        "Judge the result: E fits, S could replace it, C goes with it, I is something else.",
        "Exact E, substitute S, complement C, irrelevant I: which is this {item} for the query?",
    )
    held_out_instructions = (
        "Grade this search result with E, S, C or I for exact, substitute, complement, irrelevant.",
    )

    def ask(self, view: View, subject: int) -> Question | None:
        letter = ESCI.get(view.shelf.judged.label(subject) or "")
        return (letter and self._judged(view, subject, self.labels.index(letter))) or None


class SearchMatch(_Judgement):
    """T30 for any scale of grades: a good result or a poor one; grades between are not asked."""

    name = "search_match"
    code = "T30"
    metric = "auc"
    needs = frozenset({"judgements.graded"})
    instructions = (
        "Is this {item} a good result for the query?",
        "Does the candidate answer what was typed?",
        "Would a judge call this {item} relevant to the query?",
        "Does the query look for {items} like this?",
    )
    held_out_instructions = ("Someone searched for this: is the {item} what they meant?",)

    def ask(self, view: View, subject: int) -> Question | None:
        grades = view.shelf.judged.grades
        step = (grades[-1] - grades[0]) / 4
        grade = float(view.shelf.judged.table.grade_J[subject])
        if grades[0] + step < grade < grades[-1] - step:
            return None
        return self._judged(view, subject, int(grade >= grades[-1] - step))


class SubstituteDetection(_Judgement):
    """T31: could it stand in for what was searched? An unseen question, never trained on."""

    name = "substitute_detection"
    code = "T31"
    tier = "T2a"
    metric = "f1"
    needs = frozenset({"judgements.substitute"})
    instructions = (
        "Is this {item} a substitute for what was searched?",
        "It is not quite what the query asks for: could it stand in?",
        "Would this {item} do instead of the one that the query means?",
        "Is the candidate an alternative to what was typed, and not the thing itself?",
    )
    held_out_instructions = ("Could a shop offer this {item} in place of the one searched for?",)

    def ask(self, view: View, subject: int) -> Question | None:
        label = view.shelf.judged.label(subject)
        return None if label is None else self._judged(view, subject, int(label == "substitute"))


class QueryRanking(_Search):
    """T32: order up to ten items that were judged for one query; their gains are their grades.

    Like the list of a user's events it is trained as its first place: the subject is one of the
    best, and all others are worse.
    """

    name = "query_ranking"
    code = "T32"
    kind: ClassVar[Kind] = "choice"
    history: ClassVar[History] = "item"
    labels = LETTERS[:CANDIDATES]
    metric = "ndcg"
    baselines = ("majority", "popularity", "word_overlap")
    needs = frozenset({"judgements.several"})
    instructions = (
        "Which of these {items} fits the query best?",
        "Rank the results of this search. Which comes first?",
        "Pick the most relevant {item} for what was typed.",
        "The user searched for this. Which result belongs on top?",
    )
    held_out_instructions = ("Name the letter of the best answer to this query.",)

    def subjects(self, view: View) -> Rows:
        return view.shelf.judged.relevant_rows(view.phase)

    def ask(self, view: View, subject: int) -> Question | None:
        table = view.shelf.judged.table
        query, right = int(table.query_J[subject]), int(table.item_J[subject])
        grades = view.shelf.judged.grades_of(query)
        worse = [item for item, grade in grades.items() if grade < grades[right]]
        if len(worse) < FEWEST_CANDIDATES - 1:
            return None
        items = [right, *view.draws.sample(worse, CANDIDATES - 1)]
        view.draws.shuffle(items)
        return Question(
            label=items.index(right),
            pieces=(*self._typed(view, query), *view.lettered([view.line(i) for i in items])),
            candidates=tuple(items),
            n_choices=len(items),
            gains=tuple(max(0.0, grades[item]) for item in items),
            query=query,
        )


class _Relevant(_Search):
    """Asks about a relevant judgement beside wrong ones, which are drawn.

    Wrong ones come from other relevant judgements of the phase, as often as they stand there, so
    that nothing tells them from the right one but the query.
    """

    history: ClassVar[History] = "item"

    def subjects(self, view: View) -> Rows:
        return view.shelf.judged.relevant_rows(view.phase)

    def _others(self, view: View, taken: frozenset[int], column: Rows, n: int) -> list[int]:
        rows = self.subjects(view)
        found: list[int] = []
        for _ in range(_TRIES * (n + 1)):
            other = int(column[int(rows[view.draws.below(len(rows))])])
            if other not in taken and other not in found:
                found.append(other)
                if len(found) == n:
                    break
        return found


class SearchMatchSampled(_Relevant):
    """T30 where only what is relevant was judged: that, or what is relevant to another query.

    What nobody judged for a query is taken to be no answer to it, so a wrong one may be right after
    all: the best of models stays below 1.
    """

    name = "search_match_sampled"
    code = "T30"
    metric = "sampled_auc"
    baselines = ("majority", "popularity", "word_overlap")
    needs = frozenset({"judgements.positive"})
    instructions = (
        "Does this {item} belong to the query, or to another one?",
        "Is the candidate among what this search should find?",
        "Would someone who types this be served by the {item}?",
        "Is this {item} a match for what was typed?",
    )
    held_out_instructions = ("Do the query and this {item} go together?",)

    def ask(self, view: View, subject: int) -> Question | None:
        judged = view.shelf.judged
        query, item = int(judged.table.query_J[subject]), int(judged.table.item_J[subject])
        label = view.draws.below(2)
        if not label:
            own = frozenset(judged.grades_of(query))
            others = self._others(view, own, judged.table.item_J, 1)
            if not others:
                return None
            item = others[0]
        return self._about(view, query, item, label, float(label))


class _FindRelevant(_Relevant):
    """Asks which of several things belongs to a relevant judgement."""

    kind: ClassVar[Kind] = "choice"
    labels = LETTERS[:CANDIDATES]
    metric = "sampled_mrr"
    needs = frozenset({"judgements.*"})


class ComplexQuerySearch(_FindRelevant):
    """T33: the item that a query means, among up to ten; trained are lists of judged results."""

    name = "complex_query_search"
    code = "T33"
    tier = "T2b"
    baselines = ("majority", "popularity", "word_overlap")
    instructions = (
        "Which {item} is the one described?",
        "Find the {item} that this request means.",
        "One of these {items} is what the person is looking for. Which?",
        "Pick the {item} that does what is asked here.",
    )
    held_out_instructions = ("Read the request: which of these {items} satisfies it?",)

    def ask(self, view: View, subject: int) -> Question | None:
        judged = view.shelf.judged
        query, right = int(judged.table.query_J[subject]), int(judged.table.item_J[subject])
        items = [
            right,
            *self._others(
                view, frozenset(judged.grades_of(query)), judged.table.item_J, CANDIDATES - 1
            ),
        ]
        if len(items) < FEWEST_CANDIDATES:
            return None
        view.draws.shuffle(items)
        options = view.lettered([view.title_line(item) for item in items])
        return Question(
            label=items.index(right),
            pieces=(*self._typed(view, query), *options),
            candidates=tuple(items),
            n_choices=len(items),
            query=query,
        )


class _FindQuery(_FindRelevant):
    """Asks which of several queries an item answers."""

    baselines = ("majority", "word_overlap")
    constants = (CANDIDATE,)

    def _among(
        self, view: View, subject: int, others: Sequence[int], typed: tuple[int, ...] = ()
    ) -> Question | None:
        """Ask for a judgement's query among others; `typed` are pieces before the options."""
        table = view.shelf.judged.table
        right, item = int(table.query_J[subject]), int(table.item_J[subject])
        queries = [right, *others]
        if len(queries) < FEWEST_CANDIDATES:
            return None
        view.draws.shuffle(queries)
        options = view.lettered([view.query_line(query) for query in queries])
        return Question(
            label=queries.index(right),
            pieces=(view.constant(CANDIDATE), view.line(item), *typed, *options),
            n_choices=len(queries),
            query=right,
        )


class QuerySuggestion(_FindQuery):
    """T35: the query that led to an item, among up to ten that people typed."""

    name = "query_suggestion"
    code = "T35"
    instructions = (
        "Which query is this {item} a good answer to?",
        "What did people type to find this {item}?",
        "Suggest the search that leads to this {item}.",
        "One of these searches ends at this {item}. Which?",
    )
    held_out_instructions = ("Complete the search box: what would find this {item}?",)

    def ask(self, view: View, subject: int) -> Question | None:
        judged = view.shelf.judged
        taken = judged.queries_of(int(judged.table.item_J[subject]))
        others = self._others(view, taken, judged.table.query_J, CANDIDATES - 1)
        return self._among(view, subject, others)


class QueryCompletion(_FindQuery):
    """T35: the query that someone is typing, among up to ten that begin alike, for an item."""

    name = "query_completion"
    code = "T35"
    instructions = (
        "Which query is being typed to find this {item}?",
        "Complete what was typed, so that it leads to this {item}.",
        "These searches begin alike. Which one ends at this {item}?",
        "The search box holds the first letters. What is meant?",
    )
    held_out_instructions = ("Finish the search that someone began for this {item}.",)

    def ask(self, view: View, subject: int) -> Question | None:
        judged = view.shelf.judged
        typed = view.shelf.start_of(int(judged.table.query_J[subject]))
        taken = judged.queries_of(int(judged.table.item_J[subject]))
        alike = [query for query in view.shelf.queries_by_start[typed] if query not in taken]
        others = view.draws.sample(alike, CANDIDATES - 1)
        return self._among(view, subject, others, (view.constant(f"Typed so far: {typed}\n"),))


class PersonalisedSearch(_Search):
    """T34: is a result of the user's search clicked? The history is what came before the search."""

    name = "personalised_search"
    code = "T34"
    metric = "gauc"
    baselines = ("majority", "popularity", "item_knn", "gradient_boosting", "word_overlap")
    needs = frozenset({"searches.clicked"})
    instructions = (
        "The user searches for this. Will they click the candidate?",
        "Is this result one for this user?",
        "Will this user choose the {item} from the results of their search?",
        "Given the query and the user's past, is the candidate clicked?",
    )
    held_out_instructions = ("Of what this user finds by the query, do they open this {item}?",)

    def subjects(self, view: View) -> Rows:
        return view.searches()

    def ask(self, view: View, subject: int) -> Question | None:
        searches = view.store.searches
        assert searches is not None, "its subjects are searches"
        item, action = int(searches.item_S[subject]), searches.actions[searches.action_S[subject]]
        if item < 0 or action not in (*TAKEN, *LEFT):
            return None
        taken = action in TAKEN
        return self._about(view, int(searches.query_S[subject]), item, int(taken), float(taken))
