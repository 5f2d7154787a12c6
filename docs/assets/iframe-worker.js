/* Search without a server: browsers refuse workers on file:// pages, so one runs in a hidden frame. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      (document.body || document.documentElement).appendChild(frame);
      const inside = frame.contentWindow;
      inside.postMessage = (data) => {
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        if (this.onmessage) this.onmessage(event);
      };
      inside.importScripts = (...urls) => Promise.all(urls.map((each) => load(each)));
      const load = (each) =>
        new Promise((done, failed) => {
          const script = inside.document.createElement("script");
          script.src = new URL(each, document.baseURI).href;
          script.onload = done;
          script.onerror = failed;
          inside.document.head.appendChild(script);
        });
      this.frame = frame;
      this.ready = load(url);
    }
    postMessage(data) {
      const event = () => new this.frame.contentWindow.MessageEvent("message", { data });
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(event()));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
