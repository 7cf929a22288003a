// The recommendations: a column for each model that is shown, asked at the same time.

import { ask, isAborted } from "./api.js";
import { alignRows, compare } from "./compare.js";
import { nameOf } from "./controls.js";
import { announce, clear, h, toast } from "./dom.js";
import { milliseconds, plural } from "./format.js";
import { howAnswered } from "./how.js";
import { itemRow } from "./items.js";
import { marksOf } from "./marks.js";
import { roving } from "./roving.js";
import { sourceLook, sourceName } from "./sources.js";
import { keep, state } from "./state.js";
import { learn, learnTitles } from "./titles.js";
import { inPageRequest, inRequest } from "./visitor.js";

const MOVE_MS = 260;

/** One model's list. */
export class Column {
  constructor(kind, app) {
    this.kind = kind;
    this.app = app;
    this.answer = null;
    this.ranks = null;
    this.running = null;
    this.cursor = null;
    this.element = this.#make();
  }

  /** Asks for the list and shows it; resolves to the answer, or null if there is none or a newer one is on its way. */
  async refresh() {
    this.running?.abort();
    const running = (this.running = new AbortController());
    this.element.setAttribute("aria-busy", "true");
    const body = this.#body();
    try {
      const answer = await ask("POST", "recommend", { body, signal: running.signal });
      for (const item of answer.items) learn(item.item_id, item.fields);
      await learnTitles(answer.items.flatMap((item) => item.reasons.slice(0, 3).map((reason) => reason.item_id)));
      if (running.signal.aborted) return null;
      this.#show(answer, body);
      return answer;
    } catch (error) {
      if (isAborted(error)) return null;
      this.#showProblem(error);
      return null;
    } finally {
      if (this.running === running) this.element.removeAttribute("aria-busy");
    }
  }

  /** Puts the next page under the list. The list is asked for once more first, to be kept for pages. */
  async more() {
    this.running?.abort();
    const running = (this.running = new AbortController());
    const lengthBefore = this.list.children.length;
    this.element.setAttribute("aria-busy", "true");
    try {
      if (this.cursor === null) {
        const body = { ...this.#body(), paginate: true };
        this.#show(await ask("POST", "recommend", { body, signal: running.signal }), body);
        this.app.listsChanged();
      }
      if (this.cursor !== null) {
        const { k, return_fields, exclude_item_ids } = this.#body();
        const body = { cursor: this.cursor, ...inPageRequest(), k, return_fields, exclude_item_ids };
        this.#append(await ask("POST", "recommend", { body, signal: running.signal }));
        this.list.children[lengthBefore]?.querySelector("button.title")?.focus();
      }
    } catch (error) {
      if (!isAborted(error)) toast(error.message, "error");
    } finally {
      if (this.running === running) this.element.removeAttribute("aria-busy");
    }
  }

  /** The next list is not compared with this one. */
  forget() {
    this.ranks = null;
  }

  #make() {
    const modes = this.app.models[this.kind].modes;
    this.mode = h(
      "select",
      {
        "aria-label": `How ${nameOf(this.kind)} recommends`,
        onchange: () => {
          state.modes[this.kind] = this.mode.value;
          keep();
          this.app.refresh();
        },
      },
      modes.map((mode) => h("option", { value: mode, selected: mode === state.modes[this.kind] }, mode)),
    );
    this.source = h("span", { class: "badge" });
    this.sub = h("p", { class: "meta" });
    this.notes = h("ul", { class: "warnings" });
    this.marks = h("div", { class: "marks" });
    this.list = h("ol", { class: "items", "aria-label": `Recommended by ${nameOf(this.kind)}` });
    roving(this.list, { groups: "li.item" });
    this.moreButton = h("button", { type: "button", class: "more", onclick: () => this.more(), hidden: true }, "Show more");
    this.how = h("div", { class: "how-body" });
    this.howBox = h("details", { class: "how", hidden: true }, h("summary", {}, "How this was answered"), this.how);
    return h(
      "section",
      { class: `column card kind-${this.kind}`, "aria-label": `${nameOf(this.kind)}`, "data-kind": this.kind },
      h(
        "header",
        { class: "column-head" },
        h("h2", {}, h("span", { class: "swatch", "aria-hidden": "true" }), nameOf(this.kind)),
        modes.length > 1 ? this.mode : null,
        this.source,
      ),
      this.sub,
      this.notes,
      this.marks,
      this.list,
      this.moreButton,
      this.howBox,
    );
  }

  #body() {
    const modes = this.app.models[this.kind].modes;
    const mode = modes.includes(state.modes[this.kind]) ? state.modes[this.kind] : modes[0];
    return {
      ...inRequest(),
      k: state.k,
      model: this.kind,
      ...(modes.length > 1 ? { mode } : {}),
      filter: state.filter,
      exclude_item_ids: state.excluded,
      // what the controls leave as it is, a scenario may decide
      ...(state.scenario && state.excludeSeen ? {} : { exclude_seen: state.excludeSeen }),
      ...(state.scenario && !state.diversity ? {} : { diversity: state.diversity }),
      ...(state.scenario ? { scenario: state.scenario } : {}),
      explain: state.explain,
      return_fields: ["title", ...this.app.shownAttributes(), ...this.app.specialAttributes()],
    };
  }

  #show(answer, body) {
    const before = this.ranks;
    this.answer = answer;
    this.element.dataset.answer = answer.recommendation_id;
    this.ranks = new Map(answer.items.map((item) => [item.item_id, item.rank]));
    this.source.className = `badge ${sourceLook(answer)}`;
    this.source.textContent = sourceName(answer);
    this.source.title = answer.source;
    const read = answer.history_length ? `read ${plural(answer.history_length, "item")}` : "read no history";
    this.sub.textContent = `${milliseconds(answer.timing_ms.total)} · ${read} · ${answer.bundle}`;
    clear(this.notes, answer.warnings.map((warning) => h("li", {}, warning)));
    clear(this.marks, marksOf(answer, this.app));
    const rows = answer.items.map((item) => itemRow(item, { app: this.app, answer, previous: before ? (before.get(item.item_id) ?? 0) : null }));
    replaceMoving(this.list, rows);
    if (!rows.length) this.list.append(h("li", { class: "empty" }, "Nothing in the catalogue is admissible. Loosen the filters."));
    this.#goOn(answer.next_cursor ?? null, body.paginate ? answer.next_cursor !== null : rows.length === body.k);
    clear(this.how, howAnswered(answer, body, this.app));
    this.howBox.hidden = false;
  }

  #append(page) {
    for (const item of page.items) {
      learn(item.item_id, item.fields);
      this.ranks.set(item.item_id, item.rank);
    }
    const rows = page.items.map((item) => itemRow(item, { app: this.app, answer: page, previous: null }));
    this.list.append(...rows);
    this.#goOn(page.next_cursor, page.next_cursor !== null);
    announce(page.next_cursor ? plural(rows.length, "more item") : `${plural(rows.length, "more item")}. That is all.`);
    alignRows(this.app.columns);
    compare(this.app.columns);
  }

  #goOn(cursor, isMore) {
    this.cursor = cursor;
    this.moreButton.hidden = !isMore;
  }

  #showProblem(error) {
    this.answer = null;
    delete this.element.dataset.answer;
    this.source.className = "badge bad";
    this.source.textContent = error.code ?? "failed";
    this.sub.textContent = "";
    clear(this.notes);
    clear(this.marks);
    clear(this.how);
    this.howBox.hidden = true;
    this.#goOn(null, false);
    const again = h("button", { type: "button", onclick: () => this.app.refresh() }, "Try again");
    clear(this.list, h("li", { class: "empty" }, h("div", { role: "alert" }, h("p", {}, error.message), again)));
    this.app.listsChanged();
  }
}

/** One sentence about all lists, for those who hear them. */
export function announceLists(columns, before) {
  const parts = columns
    .filter((column) => column.answer)
    .map(({ kind, answer }) => {
      const known = before.get(kind);
      const numNew = known ? answer.items.filter((item) => !known.has(item.item_id)).length : 0;
      const news = known && numNew ? `, ${numNew} new` : known ? ", nothing new" : "";
      return `${nameOf(kind)}: ${plural(answer.items.length, "item")}${news}, by ${answer.source}`;
    });
  if (parts.length) announce(`${parts.join(". ")}.`);
}

/** The reasons that all explained items share, as those of a HatLLM; null where each has its own. */
export function sameReasons(kind, items) {
  const [first, ...rest] = items.filter((item) => item.reasons.length);
  if (!first) return null;
  const key = JSON.stringify(first.reasons);
  const areSame = rest.length ? rest.every((item) => JSON.stringify(item.reasons) === key) : kind === "hatllm";
  return areSame ? first.reasons : null;
}

/** Puts rows in the place of the ones before; what stays moves there, and the focus stays where it was. */
function replaceMoving(list, rows) {
  const before = new Map([...list.children].map((row) => [row.dataset.id, row.getBoundingClientRect().top]));
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  const focusedRow = focused?.closest("li");
  const focusedAt = focusedRow ? [...list.children].indexOf(focusedRow) : -1;
  const act = focused?.dataset.act;
  list.replaceChildren(...rows);
  if (focusedRow) {
    const row = rows.find((it) => it.dataset.id === focusedRow.dataset.id) ?? rows[Math.min(focusedAt, rows.length - 1)];
    row?.querySelector(act ? `[data-act="${act}"]` : "button.title")?.focus({ preventScroll: true });
  }
  if (!before.size || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const row of rows) {
    const was = before.get(row.dataset.id);
    const by = was === undefined ? 0 : was - row.getBoundingClientRect().top;
    const from = was === undefined ? { opacity: 0, transform: "translateX(12px)" } : { transform: `translateY(${by}px)` };
    if (was === undefined || by) row.animate([from, { opacity: 1, transform: "none" }], { duration: MOVE_MS, easing: "ease-out" });
  }
}
