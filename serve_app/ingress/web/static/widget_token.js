// The widget's token: given in the page, or got from the site's back end when it is first needed and when it expires.

const EARLY_S = 15; // a token is replaced so long before it expires

export class WidgetToken {
  constructor(token, url) {
    Object.assign(this, { token, url, expiresAt: Infinity });
  }

  /** A valid token; throws Error if the site gives none. */
  async get() {
    if (this.token && Date.now() / 1000 < this.expiresAt - EARLY_S) return this.token;
    if (!this.url) {
      if (this.token) return this.token;
      throw new Error("The chat has no token: set data-token-url or data-token.");
    }
    const response = await fetch(this.url, { method: "POST", credentials: "same-origin" });
    if (!response.ok) throw new Error(`The site gave no token for the chat (HTTP ${response.status}).`);
    const { token, expires_at: expiresAt = Infinity } = await response.json();
    Object.assign(this, { token, expiresAt });
    return token;
  }

  /** Forgets the token; returns whether another one can be got. */
  renew() {
    if (this.url) this.token = "";
    return Boolean(this.url);
  }
}
